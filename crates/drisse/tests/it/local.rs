//! The conformance suite of targets, for local processes of this binary.

use crate::support::{library, root};
use drisse_core::conformance::target::{self, Fixture};
use drisse_core::{ReplicaSet, RevisionSpec};
use drisse_net::{Build, Process, runtime_folder};
use drisse_registry::{ModelSource, Store};
use drisse_targets::{Local, LocalConfig};
use drisse_testkit::PATIENCE;

/// Kills the replicas that a failed test leaves running.
struct Leftovers(String);

impl Drop for Leftovers {
    fn drop(&mut self) {
        for (process, _) in Process::find("--replica", &format!("{}/", self.0)).unwrap_or_default() {
            process.kill();
        }
    }
}

/// The models that the conformance suite deploys.
pub(crate) fn fixture(store: &Store) -> Fixture {
    let pack = |path: &str, service: &str, revision: u64| {
        let source = ModelSource::open(&root().join(path)).unwrap();
        let model = store.ingest(&source, &|_| ()).unwrap();
        let package = store.pack(&model, service, 1, None).unwrap();
        let (service, digest) = (service.parse().unwrap(), &*model.digest);
        RevisionSpec {
            keys: vec![format!("sha256:{}", "0".repeat(64))],
            ..RevisionSpec::new(service, revision, digest, package)
        }
    };
    let unknown = "crates/drisse-engines/tests/models/unknown_operator.onnx";
    Fixture {
        good: [pack("examples/digits", "good", 1), pack("examples/iris", "good", 2)],
        other: pack("examples/wine", "other", 1),
        broken: (pack(unknown, "broken", 1), "No Op registered for Nope"),
    }
}

#[tokio::test]
async fn local_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let fixture = fixture(&store);
    let workspace = drisse_net::random_id();
    let sockets = runtime_folder(&workspace).unwrap();
    let _leftovers = Leftovers(workspace.clone());
    let config = LocalConfig {
        workspace,
        program: env!("CARGO_BIN_EXE_drisse").into(),
        build: Build::current("0"),
        onnxruntime: Some(library()),
        sockets: sockets.clone(),
        services: folder.path().join("services"),
        store,
    };
    let all = async {
        let local = ReplicaSet(Local::open(config).unwrap());
        target::all(&local, &fixture).await;
    };
    tokio::time::timeout(PATIENCE, all).await.expect("it ends in time");
    assert_eq!(std::fs::read_dir(&sockets).unwrap().count(), 0, "no socket is left");
    std::fs::remove_dir(sockets).unwrap();
}
