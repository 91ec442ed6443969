//! `cargo xtask bench`: builds the programs, installs missing load generators and runs the measurements.

use crate::setup::{apt_install, exists};
use crate::{python, release_folder, root, target_folder};
use anyhow::{Result, ensure};
use std::process::Command;

/// The load generators, and the proxy that the gateway is compared with: command and Debian package.
const TOOLS: [(&str, &str); 3] = [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("haproxy", "haproxy")];

/// The measurements, in the order in which they run.
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
        ensure!(
            exists(tool) || apt_install(&[package]),
            "cannot install {tool}: `apt-get update && apt-get install {package}`"
        );
    }
    let beside_others = ["--manifest-path", "bench/json/Cargo.toml"];
    for packages in [["-p", "drisse", "-p", "bench"].as_slice(), &beside_others] {
        let mut build = Command::new("cargo");
        // Both workspaces build into one folder, so that shared dependencies are built once.
        build.args(["build", "--release"]).args(packages).env("CARGO_TARGET_DIR", target_folder());
        ensure!(build.current_dir(root()).status()?.success(), "the build failed");
    }
    crate::tools::podman()?;
    let python = python::environment_at("bench/requirements.txt")?;
    // Triton is only compared with: where it cannot be installed, it is left out.
    let triton = match python::environment_at("bench/requirements-pytriton.txt") {
        Ok(triton) => vec![format!("triton={}", triton.display())],
        Err(error) => {
            println!("measuring without Triton: {error:#}");
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
