//! A container engine for tests: podman, with nothing of the machine's own.

use crate::workspace::PATIENCE;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// The user's cache folder of tests that build images: the runtime layer is packed once for each program.
pub(crate) static CACHE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    std::fs::create_dir_all(&folder).unwrap();
    let mut prune = crate::support::drisse(&["image", "prune"]);
    let pruned = prune.env("XDG_CACHE_HOME", &folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(pruned.unwrap().success(), "layers of earlier programs are removed");
    folder
});

/// The engine that `cargo xtask test` found or installed; CI needs one.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
pub(crate) fn podman() -> Option<String> {
    let named = std::env::var("DRISSE_PODMAN").ok();
    if named.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI needs podman: `cargo xtask test` installs it");
        eprintln!("not tested: DRISSE_PODMAN names no podman");
    }
    named
}

/// A podman with folders of its own: its API by a socket, its command line.
pub(crate) struct Engine {
    podman: String,
    folder: TempDir,
    service: Option<Child>,
}

impl Engine {
    pub(crate) fn start() -> Option<Self> {
        let mut engine = Self { podman: podman()?, folder: tempfile::tempdir().unwrap(), service: None };
        engine.serve();
        Some(engine)
    }

    /// What `DOCKER_HOST` is for who is to find it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let root = |name| self.folder.path().join(name).display().to_string();
        let mut command = Command::new(&self.podman);
        command.args(["--root", &root("root"), "--runroot", &root("run"), "--runtime", "runc"]);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Lines that a command prints.
    pub(crate) fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    pub(crate) fn containers(&self) -> Vec<String> {
        self.lines(&["ps", "--all", "--format", "{{.Names}}"])
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("podman.sock")
    }

    /// Starts the engine's API.
    pub(crate) fn serve(&mut self) {
        let address = format!("unix://{}", self.socket().display());
        let mut service = self.command(&["system", "service", "--time=0", &address]);
        self.service = Some(service.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let began = std::time::Instant::now();
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(began.elapsed() < PATIENCE, "podman's API does not come up");
            std::thread::yield_now();
        }
    }

    /// Ends it, and leaves its containers.
    pub(crate) fn stop_serving(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill().unwrap();
            service.wait().unwrap();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.run(&["rm", "--all", "--force", "--time", "0"]);
        self.run(&["rmi", "--all", "--force"]);
        self.stop_serving();
    }
}
