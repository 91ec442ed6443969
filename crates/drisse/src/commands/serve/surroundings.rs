//! Control groups and environment variables that a target sets for a replica.
//!
//! The server applies both itself at startup. So no helper process is needed, and secrets appear neither in a
//! command line nor in the description of a container.

use crate::cli::Serve;
use crate::error::Result;
use anyhow::Context;
use clap::Args;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Variable with the path of the file whose variables are already in the environment.
const ENTERED: &str = "DRISSE_ENV_FILE";

/// Joins the control groups and, if there is an environment file, restarts the program with its variables.
pub(super) fn enter(arguments: &Serve) -> Result<()> {
    for group in &arguments.cgroup {
        let file = group.join("cgroup.procs");
        // 0 stands for the process that writes.
        std::fs::write(&file, "0")
            .with_context(|| format!("cannot join a control group through {}", file.display()))?;
    }
    let Some(file) = &arguments.env_file else { return Ok(()) };
    if std::env::var_os(ENTERED).is_some_and(|entered| entered == *file) {
        return Ok(());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the environment in {}", file.display()))?;
    let command = Serve::augment_args(clap::Command::new("serve"));
    let settings: Vec<_> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
    // A replica is what its target asks for: these variables are for servers that users start.
    let own = |name: &str| name != "DRISSE_ONNXRUNTIME" && settings.iter().any(|setting| *setting == name);
    let variables = text.lines().filter_map(|line| line.split_once('=')).filter(|(name, _)| !own(name));
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    // A running multi-threaded process cannot change its environment safely: the program executes itself again.
    let error =
        Command::new("/proc/self/exe").arg0(name).args(words).envs(variables).env(ENTERED, file).exec();
    Err(anyhow::Error::from(error)
        .context("cannot restart with the variables of the environment file")
        .into())
}
