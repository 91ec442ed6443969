//! Processes that outlive their parent: they are started detached, found again by their arguments, and watched.

use crate::hex;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::UNIX_EPOCH;
use tokio::io::unix::AsyncFd;

/// The environment variables that a started process inherits. None of them holds secrets.
const ENVIRONMENT: [&str; 23] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    // The addresses of container engines.
    "XDG_RUNTIME_DIR",
    "DOCKER_HOST",
    "DRISSE_LOG",
    "DRISSE_FAKE",
    "DRISSE_CRASH_POINTS",
    "RUST_BACKTRACE",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    // Where to export traces, and which ones. Not `OTEL_EXPORTER_OTLP_HEADERS`, which may hold a collector's token.
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SDK_DISABLED",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
];

/// How a process is started.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program.
    pub program: &'a Path,
    /// The arguments. They must not hold secrets: every user of the machine can read them.
    pub arguments: Vec<OsString>,
    /// Environment variables besides the inherited ones.
    pub settings: &'a [(&'a str, &'a str)],
    /// The file that stdout and stderr are appended to. If it is created, only this user can read it.
    pub log: &'a Path,
    /// The standard input, such as a listening socket; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
}

/// A process, held by a descriptor (pidfd) that never refers to another process, even if the pid is used again.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    fd: AsyncFd<OwnedFd>,
    child: Option<Child>,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The process exited with this code.
    Code(i32),
    /// This signal ended the process.
    Signal(i32),
    /// The process was not a child of this one: its exit status cannot be read.
    Unknown,
}

impl Process {
    /// Starts a program in a process group of its own. Requires a tokio runtime.
    ///
    /// # Errors
    /// Returns the system's error if the log cannot be opened or the program cannot be started.
    pub fn start(launch: Launch<'_>) -> io::Result<Self> {
        let open = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(launch.log);
        let log = open.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", launch.log.display()))
        })?;
        let mut command = Command::new(launch.program);
        command
            .args(launch.arguments)
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(launch.settings.iter().copied())
            .current_dir("/")
            // A Ctrl-C in the terminal must not end this process.
            .process_group(0)
            .stdin(launch.stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn()?;
        drisse_core::crash_point("a process is started");
        Self::watch(child.id(), Some(child))
    }

    /// Finds this user's processes that have `flag` among their arguments, followed by a value that starts with
    /// `prefix`. Returns each with that value. Requires a tokio runtime.
    ///
    /// # Errors
    /// Returns the system's error if `/proc` cannot be read. Processes that end meanwhile are left out.
    pub fn find(flag: &str, prefix: &str) -> io::Result<Vec<(Self, String)>> {
        Self::find_where(flag, |_, value| value.starts_with(prefix))
    }

    /// Finds this user's processes that have `flag` among their arguments and a file below `folder` open, whatever the
    /// folder was called when they were started. Returns each with the argument that follows `flag`. Requires a tokio
    /// runtime.
    ///
    /// # Errors
    /// Returns the system's error if `/proc` cannot be read. Processes that end meanwhile are left out.
    pub fn find_using(flag: &str, folder: &Path) -> io::Result<Vec<(Self, String)>> {
        Self::find_where(flag, |process, _| {
            let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
            files
                .into_iter()
                .any(|file| fs::read_link(file.path()).is_ok_and(|path| path.starts_with(folder)))
        })
    }

    /// `matches` gets the process's folder in `/proc` and the argument that follows `flag`.
    fn find_where(flag: &str, matches: impl Fn(&Path, &str) -> bool) -> io::Result<Vec<(Self, String)>> {
        let me = rustix::process::getuid().as_raw();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // The descriptor is opened before `/proc/PID` is read: if the process is still alive at the end, all
            // that was read belongs to it, not to a later process with the same pid.
            let Ok(process) = Self::watch(pid, None) else { continue };
            let ours = belongs_to(&entry.path(), me);
            let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
            let words: Vec<_> = line.split(|&byte| byte == 0).collect();
            let value = words.windows(2).find(|pair| pair[0] == flag.as_bytes()).map(|pair| pair[1]);
            let Some(value) = value.and_then(|value| std::str::from_utf8(value).ok()) else { continue };
            if ours && matches(&entry.path(), value) && !process.is_over() {
                found.push((process, value.to_owned()));
            }
        }
        Ok(found)
    }

    /// Returns the process with the id `pid`, which need not be a child of this one. Requires a tokio runtime.
    ///
    /// # Errors
    /// Returns the system's error if the process does not exist.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::watch(pid, None)
    }

    #[expect(deprecated, reason = "its replacement requires a guarantee that `OwnedFd` gives anyway")]
    fn watch(pid: u32, child: Option<Child>) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let fd = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
        Ok(Self { pid, fd: AsyncFd::new(fd)?, child })
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends `SIGTERM`, which asks the process to end. Has no effect if it has ended.
    pub fn terminate(&self) {
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::TERM);
    }

    /// Sends `SIGKILL`, which ends the process at once. Has no effect if it has ended.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
    }

    /// Waits until the process has ended. May be called again. Cancel-safe.
    pub async fn ended(&mut self) -> Exit {
        // A pidfd becomes readable when the process ends.
        let _ = self.fd.readable().await;
        let status = self.child.as_mut().and_then(|child| child.wait().ok());
        match status.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => Exit::Code(code),
            Some((_, Some(signal))) => Exit::Signal(signal),
            _ => Exit::Unknown,
        }
    }

    fn is_over(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(self.fd.get_ref(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(9) => f.write_str("was killed (signal 9)"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

/// Returns whether all user ids of a process are `user`. The owner of its folder in `/proc` does not show this: it is
/// root for a set-user-ID program such as `su`, no matter which user runs it.
fn belongs_to(folder: &Path, user: u32) -> bool {
    let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let mut ids = ids.unwrap_or_default().split_whitespace().peekable();
    ids.peek().is_some() && ids.all(|id| id.parse() == Ok(user))
}

/// The build of Drisse that a process runs. A newer build compares greater and replaces an older one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Build {
    version: Vec<u64>,
    /// When the binary was written, in milliseconds since 1970.
    written: u64,
}

impl Build {
    /// Returns the build of this process, whose version is `version`.
    pub fn current(version: &str) -> Self {
        let written = fs::metadata("/proc/self/exe").and_then(|metadata| metadata.modified());
        let written = written.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Self {
            version: version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect(),
            written: written.map_or(0, |at| u64::try_from(at.as_millis()).unwrap_or(0)),
        }
    }

    /// Parses the text that [`ToString`] returns; `None` if it is malformed.
    ///
    /// ```
    /// use drisse_net::Build;
    ///
    /// let (old, new) = (Build::parse("0.9.1@1700000000000"), Build::parse("0.10.0@1600000000000"));
    /// assert!(old < new);
    /// assert!(Build::parse("0.9.1").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        let (version, written) = text.split_once('@')?;
        let version = version.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        Some(Self { version, written: written.parse().ok()? })
    }
}

impl std::fmt::Display for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version: Vec<_> = self.version.iter().map(u64::to_string).collect();
        write!(f, "{}@{}", version.join("."), self.written)
    }
}

/// Returns twelve random lowercase hexadecimal digits.
pub fn random_id() -> String {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    hex(&bytes)
}

/// Returns the path of the folder for a workspace's sockets. It is short, because the path of a socket has at most
/// 107 bytes. It depends on the user only, so that a login, a boot unit and cron find the same folder, and it is not
/// in `XDG_RUNTIME_DIR`, which is removed when the user logs out.
pub fn runtime_path(workspace: &str) -> PathBuf {
    let me = rustix::process::getuid().as_raw();
    let base =
        if me == 0 { PathBuf::from("/run/drisse") } else { PathBuf::from(format!("/tmp/drisse-{me}")) };
    base.join(workspace)
}

/// Creates the folder of [`runtime_path`] if it does not exist, accessible to this user only, and returns its path.
///
/// # Errors
/// Returns the system's error if the folder cannot be created, and `PermissionDenied` if it belongs to another user.
pub fn runtime_folder(workspace: &str) -> io::Result<PathBuf> {
    let me = rustix::process::getuid().as_raw();
    let folder = runtime_path(workspace);
    let base = folder.parent().unwrap_or(Path::new("/")).to_owned();
    for path in [&base, &folder] {
        // The owner of a folder is checked before anything is created in it.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.is_dir() || metadata.uid() != me {
            let message = format!("{} belongs to another user", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        if metadata.mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
    }
    File::open(&folder).map(|_| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_found_by_its_arguments_and_its_end_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let marker = random_id();
        let launch = |value: &str| Launch {
            program: Path::new("/bin/sh"),
            arguments: ["-c", "echo started; read x", "--mark", value].map(OsString::from).to_vec(),
            settings: &[],
            log: &log,
            stdin: None,
        };
        let mut ended = Process::start(launch("other")).unwrap();
        assert_eq!(ended.ended().await, Exit::Code(1), "its input is empty, so `read` fails");
        assert_eq!(fs::read_to_string(&log).unwrap(), "started\n");
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);

        // This process keeps running: nothing is ever written to its input.
        let (_writer, reader) = std::os::unix::net::UnixStream::pair().unwrap();
        let stays = Launch { stdin: Some(reader.into()), ..launch(&format!("{marker}/1")) };
        let mut child = Process::start(stays).unwrap();
        // A program that is still being loaded has no arguments yet.
        let mut looks = std::iter::repeat_with(|| Process::find("--mark", &marker).unwrap().pop());
        let (mut same, value) = looks.find_map(|found| found).unwrap();
        assert_eq!((same.pid(), value), (child.pid(), format!("{marker}/1")));
        same.kill();
        assert_eq!(child.ended().await, Exit::Signal(9));
        assert_eq!(same.ended().await, Exit::Unknown);
        assert!(Process::find("--mark", &marker).unwrap().is_empty());
    }

    #[test]
    fn a_later_version_or_a_later_binary_is_newer() {
        let build = |text| Build::parse(text).unwrap();
        assert!(build("0.10.0@5") > build("0.9.1@9") && build("1.0.0@2") > build("1.0.0@1"));
        let current = Build::current("1.2.3-alpha");
        assert_eq!(Build::parse(&current.to_string()), Some(current));
        assert_eq!(Build::parse("x"), None);
    }
}
