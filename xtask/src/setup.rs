//! What stages need besides compiled code: cargo's tools, Debian packages, external programs, Python environments. All
//! of it is made once and kept, and is made in the background while the compiler works.

use crate::{python, root, tools};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The version whose answers are known to be the same everywhere.
const CARGO_DENY: &str = "0.20.2";

/// The version of cargo-fuzz that the flags in `fuzz.rs` belong to.
const CARGO_FUZZ: &str = "0.13.1";

/// Debian packages that the Rust tests use, each with a command that shows whether it is installed.
const PACKAGES: [(&str, &[&str]); 5] = [
    ("valgrind", &["valgrind", "--version"]),
    ("strace", &["strace", "--version"]),
    ("faketime", &["faketime", "--version"]),
    ("zsh", &["zsh", "--version"]),
    ("fish", &["fish", "--version"]),
];

/// The threads that set things up.
#[derive(Debug)]
pub(crate) struct SettingUp([JoinHandle<()>; 2]);

impl SettingUp {
    /// Waits until everything is set up.
    pub(crate) fn join(self) {
        self.0.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// Starts to make everything that `cargo xtask test` needs, in the order in which its stages need it. Errors are
/// dropped here: the stage that needs the thing tries again and reports them.
pub(crate) fn begin() -> SettingUp {
    let programs = || {
        let _ = (cargo_deny(), cargo_fuzz());
    };
    let packages = || {
        for (package, command) in PACKAGES {
            installed(package, command);
        }
        let _ = python::environment();
        for (_, tool) in tools::TOOLS {
            let _ = tool();
        }
        for list in python::CLIENTS {
            let _ = python::environment_of(list);
        }
    };
    SettingUp([std::thread::spawn(programs), std::thread::spawn(packages)])
}

/// Runs `make` while no other thread makes the thing of this name; says so if it has to wait for one.
pub(crate) fn once<T>(name: &str, make: impl FnOnce() -> T) -> T {
    static LOCKS: Mutex<BTreeMap<String, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let lock = Arc::clone(locks.entry(name.to_owned()).or_default());
    drop(locks);
    let _made = lock.try_lock().unwrap_or_else(|_| {
        println!("\nwaiting for {name}");
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    });
    make()
}

/// Installs cargo-deny unless it is there.
pub(crate) fn cargo_deny() -> Result<()> {
    tool("deny", CARGO_DENY)
}

/// Installs cargo-fuzz unless it is there.
pub(crate) fn cargo_fuzz() -> Result<()> {
    tool("fuzz", CARGO_FUZZ)
}

/// Installs a subcommand of cargo unless it is there.
fn tool(name: &str, version: &str) -> Result<()> {
    let package = format!("cargo-{name}");
    once(&package, || {
        // Started from outside the workspace, whose toolchain file does not apply to tools.
        let folder = root().parent().unwrap_or(Path::new("/"));
        if works(&["cargo", name, "--version"]) {
            return Ok(());
        }
        println!("\ninstalling {package} {version} (once)");
        let mut install = Command::new("cargo");
        // Without optimizations: the tools read a few files, and compiling them is what takes time.
        install.args(["install", "-q", "--locked", "--debug", &package, "--version", version]);
        // Not into the target folder, which the stages that compile have locked.
        install.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_DEV_DEBUG", "0");
        let installed = install.current_dir(folder).status().context("cannot run cargo")?;
        ensure!(installed.success(), "cannot install {package}");
        Ok(())
    })
}

/// Returns whether a command works; installs its Debian package first if it does not.
pub(crate) fn installed(package: &str, command: &[&str]) -> bool {
    works(command) || apt_install(&[package]) && works(command)
}

/// Installs Debian packages, and returns whether that succeeded.
pub(crate) fn apt_install(packages: &[&str]) -> bool {
    let install = [&["install", "--no-install-recommends", "-y"], packages].concat();
    apt(&install, root()) || apt(&["update"], root()) && apt(&install, root())
}

/// Runs `apt-get` in a folder, and returns whether it succeeded.
pub(crate) fn apt(arguments: &[&str], folder: &Path) -> bool {
    once("apt-get", || {
        let mut apt = Command::new("apt-get");
        // Another process may be installing a package too.
        apt.args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "APT::Sandbox::User=root"]).args(arguments);
        apt.current_dir(folder).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        apt.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

/// Returns whether a program can be started, whatever it answers to `--version`.
pub(crate) fn exists(program: &str) -> bool {
    silent(&[program, "--version"]).is_ok()
}

/// Returns whether a command succeeds; what it prints is dropped.
pub(crate) fn works(words: &[&str]) -> bool {
    silent(words).is_ok_and(|status| status.success())
}

fn silent(words: &[&str]) -> std::io::Result<ExitStatus> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    #[test]
    fn threads_that_need_the_same_thing_make_it_one_after_the_other() {
        let (making, most) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    once("a thing", || {
                        most.fetch_max(making.fetch_add(1, SeqCst) + 1, SeqCst);
                        std::thread::yield_now();
                        making.fetch_sub(1, SeqCst);
                    });
                });
            }
        });
        assert_eq!(most.load(SeqCst), 1);
    }
}
