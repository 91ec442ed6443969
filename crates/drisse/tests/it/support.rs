//! Helpers that run the binary and send requests to its servers.

use drisse_engines::onnx;
use drisse_testkit::{Connection, post};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// ONNX Runtime's library, downloaded once if it is missing, so that no command in a test reports a download.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let cache = onnx::cache_folder();
    let found = onnx::find(None, &cache).expect("a library that can be used");
    found.unwrap_or_else(|| onnx::fetch(&cache).expect("pip can download ONNX Runtime"))
});

/// Returns the path of ONNX Runtime's library.
pub(crate) fn library() -> PathBuf {
    LIBRARY.clone()
}

/// A command that runs the binary in the repository's root, without the caller's settings.
pub(crate) fn drisse(arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::program());
    command
        .args(arguments)
        .current_dir(root())
        .env_remove("DRISSE_LOG")
        .env("DRISSE_ONNXRUNTIME", &*LIBRARY)
        .stdin(Stdio::null());
    command
}

/// Runs the binary, and returns its exit code, stdout and stderr.
pub(crate) fn output(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = drisse(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// A running server with the JSON document that it printed; killed when dropped.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) document: serde_json::Value,
}

impl Serving {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::logging_to(arguments, Stdio::null())
    }

    /// Starts a server with this stderr.
    pub(crate) fn logging_to(arguments: &[&str], stderr: impl Into<Stdio>) -> Self {
        let all = [&["serve", "--output", "json"], arguments].concat();
        Self::running(drisse(&all).stderr(stderr))
    }

    /// The server that a command starts.
    pub(crate) fn running(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut text = String::new();
        let document = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{command:?} ended: {text}")).unwrap();
            text += &line;
            if let Ok(document) = serde_json::from_str(&text) {
                break document;
            }
        };
        Self { child, document }
    }

    pub(crate) fn url(&self) -> &str {
        self.document["url"].as_str().unwrap()
    }

    /// Sends a raw request, and returns status and body.
    pub(crate) fn ask(&self, request: &str) -> (u16, String) {
        let address = self.url().trim_start_matches("http://").to_owned();
        let answer = Connection::tcp(address).unwrap().exchange(request).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    pub(crate) fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        self.ask(&post(path, &format!("connection: close\r\n{headers}"), body))
    }

    pub(crate) fn signal(&self, signal: &str) {
        let kill = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
