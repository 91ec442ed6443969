//! `cargo xtask bench`: builds, installs the load generators if they are missing, measures.

use crate::{python, release_folder, root, target_folder};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// What generates load, and the proxy the gateway is measured beside: command and Debian package.
const TOOLS: [(&str, &str); 3] = [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("haproxy", "haproxy")];

/// What is measured, in this order.
const SCRIPTS: [&str; 8] = [
    "bench.py",
    "overload.py",
    "batching.py",
    "many.py",
    "tracing.py",
    "json_speed.py",
    "deploy.py",
    "containers.py",
];

pub(crate) fn run() -> Result<()> {
    for (tool, package) in TOOLS {
        let mut asked = Command::new(tool);
        asked.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if asked.status().is_err() {
            let installed = Command::new("apt-get").args(["install", "-y", "-q", package]).status();
            let installed = installed.with_context(|| format!("cannot install {tool}"))?;
            ensure!(
                installed.success(),
                "cannot install {tool}: `apt-get update && apt-get install {package}`"
            );
        }
    }
    let beside_others = ["--manifest-path", "bench/json/Cargo.toml"];
    for packages in [["-p", "drisse", "-p", "bench"].as_slice(), &beside_others] {
        let mut build = Command::new("cargo");
        // One folder for both workspaces: what they share is built once.
        build.args(["build", "--release"]).args(packages).env("CARGO_TARGET_DIR", target_folder());
        ensure!(build.current_dir(root()).status()?.success(), "the build failed");
    }
    crate::tools::podman()?;
    let python = python::environment_at("bench/requirements.txt")?;
    // A rival: what cannot be had is left out.
    let triton = match python::environment_at("bench/requirements-pytriton.txt") {
        Ok(triton) => vec![format!("triton={}", triton.display())],
        Err(error) => {
            println!("without Triton: {error:#}");
            Vec::new()
        }
    };
    for script in SCRIPTS {
        let more = if script == "bench.py" { triton.as_slice() } else { &[] };
        let mut measure = Command::new(&python);
        let path = root().join("bench").join(script);
        let measured = measure.arg(path).arg(release_folder()).args(more).current_dir(root()).status()?;
        ensure!(measured.success(), "the measurement of {script} failed");
    }
    Ok(())
}
