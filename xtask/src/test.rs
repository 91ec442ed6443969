//! `cargo xtask test`: sets up what the tests need and runs them all, nothing skipped.

use crate::steps::Steps;
use crate::{count, fuzz, proof, prove, python, release_folder, root, sanitize, target_folder, tools};
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The version whose answers are known to be the same everywhere.
const CARGO_DENY: &str = "0.20.2";

/// How long each fuzz target runs here; `cargo xtask prove` is thorough.
const FUZZ: Duration = Duration::from_secs(6);

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(arguments);
        command
    };
    steps.run("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    steps.run(
        "lints",
        &mut cargo(&["clippy", "-q", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    )?;
    let mut beside_others = cargo(&["check", "-q", "--manifest-path", "bench/json/Cargo.toml"]);
    steps.run("benchmark of JSON", beside_others.env("CARGO_TARGET_DIR", target_folder()))?;
    deny(&mut steps)?;
    // The binary first: the tests of the command line run it.
    steps.run("release build", &mut cargo(&["build", "-q", "--release", "-p", "drisse"]))?;
    count::run(&mut steps)?;
    let python = python::environment()?;
    let mut tests = cargo(&["test", "-q", "--workspace"]);
    steps.run("Rust tests", tools::name(prove::set_up(&mut tests)?)?)?;
    sanitize::run(&mut steps)?;
    let drisse = release_folder().join("drisse");
    let triton = python::environment_of("requirements-triton.txt")?;
    let kserve = python::environment_of("requirements-kserve.txt")?;
    let tensorflow = python::environment_of("requirements-tfs.txt")?;
    for (name, python) in [
        ("models", &python),
        ("onnx_cases", &python),
        ("clients", &triton),
        ("clients_grpc", &triton),
        ("clients_kserve", &kserve),
        ("clients_tfs", &tensorflow),
    ] {
        let script = format!("tests/conformance/{name}.py");
        let mut command = Command::new(python);
        command.args(["-W", "ignore"]).arg(script).arg(&drisse);
        steps.run(&format!("conformance: {name}"), &mut command)?;
    }
    let mut rivals = Command::new(&python);
    rivals.arg("tests/conformance/rivals.py").arg(&drisse).arg(format!("kserve={}", kserve.display()));
    for name in ["mlserver", "pytriton"] {
        let python = python::environment_of(&format!("requirements-{name}.txt"))?;
        rivals.arg(format!("{name}={}", python.display()));
    }
    steps.run("conformance: rivals", &mut rivals)?;
    let mut rows = proof::written()?;
    rows.extend(fuzz::run(&mut steps, fuzz::Length::For(FUZZ))?);
    rows.push(fuzz::schemas(&mut steps, "10")?);
    println!("\n{}", proof::tables(&rows));
    steps.finish()
}

/// Bans, licences and sources always; advisories where their database can be had.
fn deny(steps: &mut Steps) -> Result<()> {
    let works = |arguments: &[&str]| {
        let quiet =
            Command::new("cargo").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    };
    if !works(&["deny", "--version"]) {
        println!("\ninstalling cargo-deny {CARGO_DENY} (once)");
        let mut install = Command::new("cargo");
        // Outside of the workspace its target folder and toolchain file do not apply.
        install.args(["install", "-q", "--locked", "cargo-deny", "--version", CARGO_DENY]);
        let installed = install.current_dir(root().parent().unwrap_or(Path::new("/"))).status()?;
        ensure!(installed.success(), "cannot install cargo-deny");
    }
    steps.run(
        "bans, licences, sources",
        Command::new("cargo").args(["deny", "-L", "error", "check", "bans", "licenses", "sources"]),
    )?;
    if works(&["deny", "fetch", "db"]) {
        steps
            .run("advisories", Command::new("cargo").args(["deny", "-L", "error", "check", "advisories"]))?;
    } else {
        println!("\n=== advisories: not checked, the advisory database cannot be reached from here");
    }
    Ok(())
}
