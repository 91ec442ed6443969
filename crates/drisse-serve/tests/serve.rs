//! A server from paths, in this process, with a fake engine.

#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

use drisse_engines::fake::FakeEngine;
use drisse_serve::{Config, EngineTable, ModelPath, ServeError, build};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::oneshot;

/// Longer than any answer takes; a hang fails the test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with the digits example, whose package names `engine`.
fn package(engine: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits");
    for file in ["digits.onnx", "sample.json"] {
        std::fs::copy(example.join(file), folder.path().join(file)).unwrap();
    }
    std::fs::write(folder.path().join("drisse.json"), format!("{{\"engine\":\"{engine}\"}}")).unwrap();
    folder
}

fn config(models: &[&Path]) -> Config {
    let models = models.iter().map(ModelPath::new).collect();
    Config { models, tcp: Some("127.0.0.1:0".parse().unwrap()), ..Config::default() }
}

fn engines() -> EngineTable {
    EngineTable::default()
        .with("onnx", || panic!("no model needs it"))
        .with("fake", || Ok(Box::new(|| Ok(Box::new(FakeEngine::default())))))
}

#[test]
fn a_package_chooses_its_engine_by_name() {
    let package = package("fake");
    let server = build(config(&[package.path()]), engines()).unwrap();
    let address = server.endpoints().tcp.unwrap();
    let (ready, is_ready) = oneshot::channel();
    let shown = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&shown);
    let ready = move |models: &[drisse_serve::ServedModel]| {
        seen.store(models.len(), SeqCst);
        ready.send(()).unwrap();
    };
    let stop = async move {
        is_ready.await.unwrap();
        let client = tokio::task::spawn_blocking(move || {
            let body = "{\"data\":{\"X\":[[7".to_owned() + &",7".repeat(63) + "]]}}";
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let length = body.len();
            write!(stream, "POST /score HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = client.await.unwrap();
        assert!(answer.contains("7.0,7.0,7.0") || answer.contains("7,7,7"), "it echoes: {answer}");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server.run(ready, stop)).unwrap();
    assert_eq!(shown.load(SeqCst), 1);
}

#[test]
fn an_unknown_engine_is_an_error_that_names_the_known_engines() {
    let package = package("npu");
    let error = build(config(&[package.path()]), engines()).unwrap_err();
    assert!(matches!(error, ServeError::UnknownEngine { .. }), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "engine `npu` not found; known engines: `fake`, `onnx`");
}

#[test]
fn two_models_of_one_name_are_an_error_with_a_hint() {
    let package = package("fake");
    let error = build(config(&[package.path(), package.path()]), engines()).unwrap_err();
    assert_eq!(error.to_string(), "two models are called `digits`");
    assert_eq!(
        error.hint().unwrap(),
        "give each a name or a version of its own: NAME=MODEL or NAME:VERSION=MODEL"
    );
}
