//! `cargo xtask bench`: builds, installs the load generator if it is missing, measures.

use crate::{release_folder, root};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

pub(crate) fn run() -> Result<()> {
    let has_wrk =
        Command::new("wrk").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !has_wrk {
        let installed = Command::new("apt-get").args(["install", "-y", "-q", "wrk"]).status();
        let installed = installed.context("cannot install wrk, the load generator")?;
        ensure!(installed.success(), "cannot install wrk: `apt-get update && apt-get install wrk`");
    }
    let arguments = ["build", "--release", "-p", "drisse", "-p", "bench"];
    let built = Command::new("cargo").args(arguments).current_dir(root()).status()?;
    ensure!(built.success(), "the build failed");
    let measured =
        Command::new("python3").arg("bench/bench.py").arg(release_folder()).current_dir(root()).status()?;
    ensure!(measured.success(), "the measurement failed");
    Ok(())
}
