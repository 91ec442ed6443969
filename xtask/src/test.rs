//! `cargo xtask test`: sets up what the tests need and runs them all, nothing skipped.
//!
//! Compilers run beside each other, and so do the tests that do not measure. The Rust tests, some of which measure, run
//! alone.

use crate::proof::{self, Row};
use crate::setup::{self, works};
use crate::stages::Stages;
use crate::{count, fuzz, prove, python, release_folder, sanitize, target_folder, tools};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// How long each fuzz target runs here; `cargo xtask prove` is thorough.
const FUZZ: Duration = Duration::from_secs(6);

/// The Python tests, each with its list of requirements. None of them measures.
const CONFORMANCE: [(&str, &str); 10] = [
    ("models", "requirements.txt"),
    ("onnx_cases", "requirements.txt"),
    ("agreement", python::CLIENTS[0]),
    ("carried", python::CLIENTS[0]),
    ("bodies", python::CLIENTS[0]),
    ("triton_simple", python::CLIENTS[0]),
    ("clients", python::CLIENTS[0]),
    ("clients_grpc", python::CLIENTS[0]),
    ("clients_kserve", python::CLIENTS[1]),
    ("clients_tfs", python::CLIENTS[2]),
];

pub(crate) fn run() -> Result<()> {
    let stages = Stages::default();
    let setting_up = setup::begin();
    stages.run("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    let mut linted = false;
    stages.beside(vec![
        Box::new(|stages| {
            let mut build = linting(&["build", "--all-targets", "--keep-going"]);
            linted = stages.run("lints and test programs", &mut build)?.succeeded;
            let mut beside_others = cargo(&["check", "-q", "--manifest-path", "bench/json/Cargo.toml"]);
            stages.run("benchmark of JSON", beside_others.env("CARGO_TARGET_DIR", target_folder()))?;
            sanitize::run(stages)?;
            Ok(())
        }),
        Box::new(|stages| {
            stages.run("release build", &mut count::build_command())?;
            count::run(stages)?;
            fuzz::prepare(stages)
        }),
        Box::new(deny),
    ])?;
    // Clippy has compiled the tests, unless a lint failed: then the plain compiler must.
    let mut tests = if linted {
        linting(&["test", "--no-fail-fast"])
    } else {
        cargo(&["test", "-q", "--workspace", "--no-fail-fast"])
    };
    stages.run("Rust tests", tools::name(&stages, prove::set_up(&stages, &mut tests)?)?)?;
    let mut rows = proof::written()?;
    rows.extend(conformance_and_fuzzing(&stages)?);
    println!("\n{}", proof::tables(&rows));
    setting_up.join();
    stages.finish()
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments);
    command
}

/// A command of cargo for the whole workspace in which Clippy is the compiler, and a lint is an error. `cargo clippy`
/// would only check, and everything would be compiled a second time for the tests.
fn linting(arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    command.args(["-q", "--workspace"]).env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver");
    // The separator that Clippy expects between its arguments.
    command.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
    command
}

/// Runs the Python tests beside the fuzz targets, and returns the rows of docs/proof.md.
fn conformance_and_fuzzing(stages: &Stages) -> Result<Vec<Row>> {
    let (mut fuzzed, mut schemas) = (Vec::new(), None);
    stages.beside(vec![
        Box::new(|stages| {
            for (name, list) in CONFORMANCE {
                let python =
                    stages.need(&format!("Python packages of {name}"), || python::environment_of(list))?;
                let mut command = Command::new(python);
                command.args(["-W", "ignore"]).arg(format!("tests/conformance/{name}.py"));
                stages.run(&format!("conformance: {name}"), command.arg(release_folder().join("drisse")))?;
            }
            schemas = Some(fuzz::schemas(stages, "10")?);
            Ok(())
        }),
        Box::new(|stages| {
            fuzzed = fuzz::run(stages, fuzz::Length::For(FUZZ))?;
            Ok(())
        }),
    ])?;
    fuzzed.extend(schemas);
    Ok(fuzzed)
}

/// Bans, licences and sources always; advisories where their database can be had.
fn deny(stages: &Stages) -> Result<()> {
    stages.need("cargo-deny", setup::cargo_deny)?;
    let check = |what: &[&str]| cargo(&[&["deny", "-L", "error", "check"], what].concat());
    stages.run("bans, licences, sources", &mut check(&["bans", "licenses", "sources"]))?;
    if works(&["cargo", "deny", "fetch", "db"]) {
        stages.run("advisories", &mut check(&["advisories"]))?;
    } else {
        println!("\n=== advisories: not checked, the advisory database cannot be reached from here");
    }
    Ok(())
}
