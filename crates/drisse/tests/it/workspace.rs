//! A workspace for one test. Its control plane, gateway and replicas are stopped when it is dropped.

use crate::support::{drisse, root};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) folder: tempfile::TempDir,
}

/// What a command printed and exited with.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

impl Workspace {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { root: folder.path().join("ws"), folder }
    }

    /// A workspace in an existing folder.
    pub(crate) fn inside(folder: &Path) -> Self {
        Self { root: folder.join("ws"), folder: tempfile::tempdir().unwrap() }
    }

    /// A workspace whose path has this length.
    pub(crate) fn at_path_of(length: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut root = folder.path().to_owned();
        while root.as_os_str().len() + 101 < length {
            root.push("x".repeat(100));
        }
        let rest = length - root.as_os_str().len() - 1;
        root.push("y".repeat(rest));
        assert_eq!(root.as_os_str().len(), length);
        Self { root, folder }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = drisse(arguments);
        command.env("DRISSE_WORKSPACE", &self.root);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    /// Runs a command that must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    }

    /// Runs a command that must succeed, and parses the document that it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.ok(&[&["--output", "json"], arguments].concat()).json()
    }

    pub(crate) fn status(&self) -> Value {
        self.json(&["status"])
    }

    pub(crate) fn pid(&self, what: &str) -> Option<u64> {
        self.status()[what]["pid"].as_u64()
    }

    /// Returns the process IDs of a service's replicas.
    pub(crate) fn replicas(&self, service: &str) -> Vec<u32> {
        self.processes()
            .into_iter()
            .filter(|(_, line)| line.contains(&format!("/{service}/")))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Returns the ID and command line of every process of this workspace except the control plane.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let Ok(canonical) = self.root.canonicalize() else { return vec![] };
        let root = canonical.display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let daemon = ["--replica", "--gateway"].iter().any(|flag| line.contains(flag));
            if daemon && line.contains(&root) {
                found.push((pid, line));
            }
        }
        found
    }

    /// Writes a copy of the digits model that differs only in its description, and returns its path.
    pub(crate) fn variant(&self, what: &str) -> PathBuf {
        let mut bytes = std::fs::read(root().join("examples/digits/digits.onnx")).unwrap();
        // ModelProto.doc_string, field 6. If a field occurs twice, the last one counts.
        bytes.extend([0x32, u8::try_from(what.len()).unwrap()]);
        bytes.extend(what.as_bytes());
        let folder = self.folder.path().join(what);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("digits.onnx"), bytes).unwrap();
        folder.join("digits.onnx")
    }

    /// Replaces the paths in a text that differ from run to run.
    pub(crate) fn neutral(&self, text: &str) -> String {
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        let text = text.replace(&root.display().to_string(), "WORKSPACE");
        let text = text.replace(&crate::support::root().display().to_string(), "REPOSITORY");
        text.replace(&self.folder.path().display().to_string(), "FOLDER")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let down = self.command(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(std::thread::panicking() || down.is_ok_and(|status| status.success()), "everything ends");
        for (pid, line) in self.processes() {
            kill(pid, "-9");
            assert!(std::thread::panicking() || is_zombie(pid), "{line} was left");
        }
    }
}

/// A small tmpfs; unmounted when dropped.
pub(crate) struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts a tmpfs of this size. Returns `None` if this user may not mount one.
    pub(crate) fn new(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(folder.path());
        let mounted = mount.stderr(Stdio::null()).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn grow(&self, size: &str) {
        let grown = Command::new("mount").args(["-o", &format!("remount,{size}")]).arg(self.path()).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Whether a process has ended and released its files and locks. Its parent may not have waited for it yet.
pub(crate) fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'));
    // The first thread may end before the others, which still hold the files and locks.
    ended && std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count) <= 1
}

pub(crate) fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub(crate) fn kill(pid: u32, signal: &str) {
    // The process may have ended already.
    let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Returns a loopback address that only this test uses, so that neither another test nor an outgoing connection takes
/// its port meanwhile.
pub(crate) fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., a, b] = std::process::id().to_be_bytes();
    format!("127.{}.{b}.{}:4790", a | 0x80, NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
