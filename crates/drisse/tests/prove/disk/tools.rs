//! Tools that tests of disks need, installed where they are missing.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Whether a command works, installed from its Debian package where it does not. Required where tests are CI's.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
pub(crate) fn there(command: &[&str], package: &str) -> bool {
    let quiet = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // Two tests that install at once would be in each other's way.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let install = ["apt-get", "install", "-y", "-q", package];
    let installed = || quiet(&install) || quiet(&["apt-get", "update"]) && quiet(&install);
    if quiet(command) || installed() && quiet(command) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{package} is needed here: run as root");
    eprintln!("not tried: `apt-get install {package}`, and run as root");
    false
}
