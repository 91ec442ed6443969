//! `cargo xtask prove`: tries everything that Drisse promises and writes docs/proof.md; its quick part is
//! in `cargo xtask test`.

use crate::proof::{self, Row};
use crate::steps::Steps;
use crate::{fuzz, python, release_folder, root};
use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Prints where magika's model is.
const MAGIKA: &str = "import importlib.util, pathlib; \
    print(pathlib.Path(importlib.util.find_spec('magika').origin).parent / 'models/standard_v3_3/model.onnx')";

/// All of it.
pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    let mut build = Command::new("cargo");
    steps.run("release build", build.args(["build", "-q", "--release", "-p", "drisse"]))?;
    let mut tests = Command::new("cargo");
    // One at a time: each has the machine for itself.
    tests.args(["test", "-q", "-p", "drisse", "--test", "prove", "--", "--test-threads=1"]);
    steps.run("proofs on the real programs", set_up(&mut tests)?.env("DRISSE_PROVE", "whole"))?;
    let mut rows = proof::written()?;
    rows.extend(fuzz::run(&mut steps, fuzz::Length::Executions(10_000_000))?);
    let path = root().join("docs/proof.md");
    std::fs::write(&path, document(&rows)?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("\n{}", proof::tables(&rows));
    println!("wrote {}", path.display());
    steps.finish()
}

/// Lets tests prove the program as users run it, and write their rows.
pub(crate) fn set_up(tests: &mut Command) -> Result<&mut Command> {
    let file = proof::file();
    std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    let _ = std::fs::remove_file(&file);
    tests.env("DRISSE_BIN", release_folder().join("drisse")).env("DRISSE_PROOF", &file);
    // magika comes with the Python side of the tests.
    let found = Command::new(python::environment()?).args(["-c", MAGIKA]).output()?;
    ensure!(found.status.success(), "magika is not in the tests' Python environment");
    Ok(tests.env("DRISSE_MAGIKA", String::from_utf8(found.stdout)?.trim()))
}

fn document(rows: &[Row]) -> Result<String> {
    let output = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).current_dir(root()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = output("git", &["rev-parse", "--short", "HEAD"])?;
    let date = output("date", &["+%Y-%m-%d"])?;
    let kernel = output("uname", &["-r"])?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor =
        processor.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown");
    let missed: Vec<_> = rows.iter().filter(|row| !row.held).collect();
    let short = match missed.len() {
        0 => "Nothing falls short of its limit in this run.".to_owned(),
        count => format!(
            "{count} of {} fall short of their limit in this run: the rows marked **no**.",
            rows.len()
        ),
    };
    Ok(format!(
        "# Proof\n\n`cargo xtask prove` wrote this page, at commit {commit} on {date}, on {cores} cores of {processor}, \
         Linux {kernel}. It runs the real programs; anybody can run it again. {short} What Drisse does not promise is in \
         [SECURITY.md](../SECURITY.md).\n\n{}",
        proof::tables(rows)
    ))
}
