//! Creates the engines and targets. Only this module knows the concrete ones.

use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use drisse_control::{Targets, Workspace};
use drisse_core::{ReplicaSet, Target};
use drisse_engines::fake::FakeEngine;
use drisse_engines::onnx::{self, OnnxEngine};
use drisse_net::Build;
use drisse_registry::Store;
use drisse_scoring::Tuner;
use drisse_serve::{EngineError, EngineTable, StartEngine};
pub(crate) use drisse_targets::container_engine;
use drisse_targets::{Container, ContainerConfig, Local, LocalConfig, fake};
use drisse_wire::control::TargetSpec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

const NAME_ONE: &str = "name a library with --onnxruntime FILE or DRISSE_ONNXRUNTIME: `pip download --no-deps \
                        onnxruntime`, unzip the wheel, onnxruntime/capi/libonnxruntime.so.*";

/// Returns the path of ONNX Runtime's library: the given one, one found on this machine, or a downloaded one.
pub(crate) fn onnx_library(named: Option<&Path>) -> Result<PathBuf> {
    let cache = onnx::cache_folder();
    let find = || -> anyhow::Result<_> {
        if let Some(found) = onnx::find(named, &cache).context("cannot use ONNX Runtime")? {
            return Ok(found);
        }
        let (version, shown) = (onnx::PINNED, cache.display());
        printer::note(&format!("ONNX Runtime {version} is not on this machine: downloading it into {shown}"));
        onnx::fetch(&cache).context("cannot download ONNX Runtime")
    };
    find().map_err(|error| CliError::from(error).hint(NAME_ONE))
}

/// Returns the version of a library, or an error if it cannot be used.
pub(crate) fn onnx_version(library: &Path) -> Result<String> {
    onnx::probe(library)
        .context("cannot use ONNX Runtime")
        .map_err(|error| CliError::from(error).hint(NAME_ONE))
}

/// The cache folder, which all workspaces share.
pub(crate) fn cache_folder() -> PathBuf {
    onnx::cache_folder()
}

/// The settings of the engines.
#[derive(Clone, Debug)]
pub(crate) struct EngineSettings {
    /// The threads of an engine.
    pub(crate) threads: usize,
    /// The library of ONNX Runtime that the user named.
    pub(crate) onnxruntime: Option<PathBuf>,
}

type PrepareEngine = fn(&EngineSettings) -> Result<StartEngine, EngineError>;

/// The engines, by the names that packages choose.
const ENGINES: [(&str, PrepareEngine); 2] = [("onnx", onnx_engine), ("fake", fake_engine)];

/// Returns the table of engines. `fake` is for tests: it is there only if `DRISSE_FAKE` is set.
pub(crate) fn engines(settings: &EngineSettings) -> EngineTable {
    let shown = |name: &str| name != "fake" || std::env::var_os("DRISSE_FAKE").is_some();
    let with = |table: EngineTable, (name, prepare): (&'static str, PrepareEngine)| {
        let settings = settings.clone();
        table.with(name, move || prepare(&settings))
    };
    ENGINES.into_iter().filter(|(name, _)| shown(name)).fold(EngineTable::default(), with)
}

fn onnx_engine(settings: &EngineSettings) -> Result<StartEngine, EngineError> {
    let failed = |failure: CliError| EngineError::new(failure.error, failure.hint);
    let library = onnx_library(settings.onnxruntime.as_deref()).map_err(failed)?;
    let threads = settings.threads;
    Ok(Box::new(move || match OnnxEngine::new(&library, threads).context("cannot start ONNX Runtime") {
        Ok(engine) => Ok(Box::new(engine)),
        Err(error) => Err(EngineError::new(error, Some(NAME_ONE.to_owned()))),
    }))
}

fn fake_engine(_: &EngineSettings) -> Result<StartEngine, EngineError> {
    Ok(Box::new(|| Ok(Box::new(FakeEngine::default()))))
}

/// Creates the tuner, which measures the best threads and workers for a model; a given number is not measured.
pub(crate) fn tuner(threads: Option<usize>, workers: Option<usize>) -> Tuner {
    Tuner { threads, workers, folder: Some(onnx::cache_folder().join("tuning")), ..Tuner::default() }
}

/// Creates the targets of a workspace.
pub(crate) fn targets(
    workspace: &Workspace,
    store: &Store,
    program: &Path,
    build: &Build,
    onnxruntime: Option<PathBuf>,
) -> std::io::Result<Targets> {
    let local = Local::open(LocalConfig {
        workspace: workspace.id.clone(),
        program: program.to_owned(),
        build: build.clone(),
        onnxruntime: onnxruntime.clone(),
        sockets: workspace.sockets.clone(),
        services: workspace.services(),
        store: store.clone(),
    })?;
    let mut own: BTreeMap<String, Arc<dyn Target>> = BTreeMap::new();
    own.insert("local".to_owned(), Arc::new(ReplicaSet(local)));
    let container = onnxruntime.map(|onnxruntime| ContainerConfig {
        workspace: workspace.id.clone(),
        program: program.to_owned(),
        version: VERSION.to_owned(),
        build: build.clone(),
        onnxruntime,
        onnxruntime_version: |library| onnx::probe(library).unwrap_or_else(|_| "unknown".to_owned()),
        sockets: workspace.sockets.clone(),
        services: workspace.services(),
        log: workspace.logs().join("podman.log"),
        store: store.clone(),
        cache: cache_folder().join("images"),
        socket: None,
        max_services: 20,
    });
    if let Some(config) = &container {
        own.insert("container".to_owned(), Arc::new(ReplicaSet(Container::new(config.clone()))));
    }
    // For tests of the control plane with many services, or with replicas that take this time to start.
    if let Ok(start_time) = std::env::var("DRISSE_FAKE") {
        let start_time = crate::units::duration(&start_time).unwrap_or_default();
        let place = fake::Fake::new(fake::Script { start_time, ..fake::Script::default() });
        own.insert("fake".to_owned(), Arc::new(ReplicaSet(place)));
    }
    let attach = move |name: &str, spec: &TargetSpec| -> Result<Arc<dyn Target>, String> {
        match (&*spec.kind, &container) {
            ("container", Some(config)) => {
                let config = ContainerConfig {
                    // A workspace name and a folder of its own keep its containers, images and sockets apart.
                    workspace: format!("{}-{name}", config.workspace),
                    sockets: config.sockets.join(name),
                    socket: spec.socket.clone().map(PathBuf::from),
                    ..config.clone()
                };
                Ok(Arc::new(ReplicaSet(Container::new(config))))
            }
            ("container", None) => Err("images need ONNX Runtime, and it was not found".to_owned()),
            (kind, _) => Err(format!(
                "cannot attach a target of kind `{kind}`: only `container` targets can be attached"
            )),
        }
    };
    Ok(Targets { own, attach: Box::new(attach) })
}
