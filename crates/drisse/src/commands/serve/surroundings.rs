//! What the place that starts a server gives it: control groups to join, and an environment.
//!
//! The server does both itself, before anything else: so nothing has to run between, and secrets are in no
//! command line and no description of a container.

use crate::cli::Serve;
use crate::failure::Failure;
use anyhow::Context;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Names the file whose variables are in the environment already.
const ENTERED: &str = "DRISSE_ENV_FILE";

pub(super) fn enter(arguments: &Serve) -> Result<(), Failure> {
    for group in &arguments.cgroup {
        let file = group.join("cgroup.procs");
        // 0 is who writes.
        std::fs::write(&file, "0")
            .with_context(|| format!("cannot join a control group by {}", file.display()))?;
    }
    let Some(file) = &arguments.env_file else { return Ok(()) };
    if std::env::var_os(ENTERED).is_some_and(|entered| entered == *file) {
        return Ok(());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the environment in {}", file.display()))?;
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    // The environment of a process that runs is nobody's to change: the program starts anew, as the same process.
    let error = Command::new("/proc/self/exe")
        .arg0(name)
        .args(words)
        .envs(text.lines().filter_map(|line| line.split_once('=')))
        .env(ENTERED, file)
        .exec();
    Err(anyhow::Error::from(error).context("cannot start with its environment").into())
}
