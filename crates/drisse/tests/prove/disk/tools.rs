//! Installs the tools that tests of disks need.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Returns whether a command works; installs its Debian package first if it does not. Panics in CI if it does not work.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
pub(crate) fn there(command: &[&str], package: &str) -> bool {
    let quiet = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // Only one test at a time may install packages.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let install = ["apt-get", "install", "-y", "-q", package];
    let installed = || quiet(&install) || quiet(&["apt-get", "update"]) && quiet(&install);
    if quiet(command) || installed() && quiet(command) {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI requires {package}, which cannot be installed: run as root"
    );
    eprintln!("not tested, {package} is missing: `apt-get install {package}`, and run as root");
    false
}
