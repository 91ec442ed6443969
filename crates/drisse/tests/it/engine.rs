//! Container engines for tests, apart from the machine's own: podman, and Docker's daemon if it starts here.

use drisse_testkit::wait;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use tempfile::TempDir;

/// The cache folder of all tests that build images, so that the runtime layer is built once per binary.
pub(crate) static CACHE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    std::fs::create_dir_all(&folder).unwrap();
    let mut prune = crate::support::drisse(&["image", "prune"]);
    let pruned = prune.env("XDG_CACHE_HOME", &folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(pruned.unwrap().success(), "layers of earlier programs are removed");
    folder
});

/// The podman that `cargo xtask test` found or installed; required in CI.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
pub(crate) fn podman() -> Option<String> {
    let named = std::env::var("DRISSE_PODMAN").ok();
    if named.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI needs podman: `cargo xtask test` installs it");
        eprintln!("not tested: DRISSE_PODMAN names no podman");
    }
    named
}

/// The kind of engine.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Podman(String),
    /// Folders with the daemon and its helpers, to search before `PATH`.
    Docker(String),
}

/// An engine with folders of its own, used through its API socket and its command line.
pub(crate) struct Engine {
    kind: Kind,
    folder: TempDir,
    /// Whether it runs in a network namespace of its own.
    apart: bool,
    service: Option<Child>,
}

impl Engine {
    pub(crate) fn start() -> Option<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), false)
    }

    /// Starts podman with its data in `folder`, in a network namespace of its own if `apart`.
    pub(crate) fn start_in(folder: TempDir, apart: bool) -> Option<Self> {
        let mut engine = Self { kind: Kind::Podman(podman()?), folder, apart, service: None };
        assert!(engine.serve(), "podman's API does not come up");
        Some(engine)
    }

    /// Starts Docker's daemon. Returns `None` if the machine lacks the rights or kernel features for it.
    #[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
    pub(crate) fn docker() -> Option<Self> {
        let Ok(folders) = std::env::var("DRISSE_DOCKER") else {
            eprintln!("not tested: DRISSE_DOCKER names no Docker");
            return None;
        };
        let mut engine = Self {
            kind: Kind::Docker(folders),
            folder: tempfile::tempdir().unwrap(),
            apart: false,
            service: None,
        };
        if engine.serve() {
            return Some(engine);
        }
        let log = std::fs::read_to_string(engine.path("log")).unwrap_or_default();
        eprintln!(
            "not tested: Docker's daemon does not start here: {}",
            log.lines().last().unwrap_or_default()
        );
        None
    }

    /// The value of `DOCKER_HOST` for this engine.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.kind {
            Kind::Podman(program) => {
                let mut command = Command::new(if self.apart { "unshare" } else { program });
                if self.apart {
                    command.args(["--net", program]);
                }
                command.args([
                    "--root",
                    &self.path("root"),
                    "--runroot",
                    &self.path("run"),
                    "--runtime",
                    "runc",
                ]);
                command
            }
            Kind::Docker(folders) => {
                let mut command = Self::beside(folders, "docker");
                command.args(["--host", &self.host()]);
                command
            }
        };
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// A command for a program in `folders`, which also finds its helpers there first.
    fn beside(folders: &str, program: &str) -> Command {
        let path = format!("{folders}:{}", std::env::var("PATH").unwrap_or_default());
        let found =
            std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
        let mut command = Command::new(found.unwrap_or_else(|| program.into()));
        command.env("PATH", path);
        command
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and returns the lines it prints.
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

    /// Starts the engine's API. Returns whether it started.
    pub(crate) fn serve(&mut self) -> bool {
        let mut service = match &self.kind {
            Kind::Podman(_) => self.command(&["system", "service", "--time=0", &self.host()]),
            Kind::Docker(folders) => {
                let mut daemon = Self::beside(folders, "dockerd");
                // Containers keep running while the daemon is down; none has a network.
                daemon.args(["--live-restore", "--bridge=none", "--iptables=false", "--ip6tables=false"]);
                daemon.args(["--storage-driver", "vfs", "--host", &self.host()]);
                for (flag, name) in [("--data-root", "root"), ("--exec-root", "run"), ("--pidfile", "pid")] {
                    daemon.args([flag, &self.path(name)]);
                }
                daemon
            }
        };
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut service = service.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut ended = false;
        wait("an answer of the engine's API", || {
            ended = service.try_wait().unwrap().is_some();
            ended || std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
        self.service = (!ended).then_some(service);
        !ended
    }

    /// Stops the engine's API and leaves its containers running.
    pub(crate) fn stop_serving(&mut self) {
        let Some(mut service) = self.service.take() else { return };
        match self.kind {
            Kind::Podman(_) => service.kill().unwrap(),
            // SIGTERM also stops the daemon's helpers, but not the containers.
            Kind::Docker(_) => crate::workspace::kill(service.id(), "-TERM"),
        }
        service.wait().unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        match self.kind {
            Kind::Podman(_) => {
                self.run(&["rm", "--all", "--force", "--time", "0"]);
                self.run(&["rmi", "--all", "--force"]);
            }
            Kind::Docker(_) => {
                for container in
                    String::from_utf8_lossy(&self.run(&["ps", "--all", "--quiet"]).stdout).lines()
                {
                    self.run(&["rm", "--force", container]);
                }
            }
        }
        self.stop_serving();
    }
}
