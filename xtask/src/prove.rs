//! `cargo xtask prove`: tests at length what Drisse promises and writes docs/proof.md. `cargo xtask test` runs the same
//! tests in a shorter form.

use crate::proof::{self, Row};
use crate::stages::Stages;
use crate::{dist, fuzz, python, release_folder, root, sanitize};
use anyhow::{Context, Result, bail, ensure};
use std::process::Command;

/// A Python program that prints the path of magika's model.
const MAGIKA: &str = "import importlib.util, pathlib; \
    print(pathlib.Path(importlib.util.find_spec('magika').origin).parent / 'models/standard_v3_3/model.onnx')";

/// One part of the proof, which can run alone.
type Proof = fn(&Stages) -> Result<Vec<Row>>;

/// All parts except fuzzing, where each target is a part of its own.
const PROOFS: [(&str, Proof); 4] =
    [("programs", programs), ("schemas", schemas), ("rivals", rivals), ("supply-chain", supply_chain)];

/// The name for all fuzz targets together.
const FUZZ: &str = "fuzz";

/// Executions of each fuzz target.
const EXECUTIONS: u64 = 10_000_000;

/// Runs all parts, or the named ones, and writes docs/proof.md. The rows of the other parts come from their last runs.
pub(crate) fn run(named: &[&str]) -> Result<()> {
    let known: Vec<_> = kept_under().chain([FUZZ]).collect();
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        bail!("unknown part `{unknown}`, the parts are {}", known.join(", "));
    }
    let stages = Stages::default();
    stages.run("release build", Command::new("cargo").args(["build", "-q", "--release", "-p", "drisse"]))?;
    let is_wanted = |name: &&str| named.is_empty() || named.contains(name);
    for (name, prove) in PROOFS.iter().filter(|(name, _)| is_wanted(name)) {
        keep(name, &prove(&stages)?)?;
    }
    let targets = fuzz::TARGETS.iter().filter(|(target, _)| is_wanted(target) || named.contains(&FUZZ));
    for (nth, (target, words)) in targets.enumerate() {
        if nth == 0 {
            fuzz::prepare(&stages)?;
        }
        let row = fuzz::fuzz(&stages, fuzz::Length::Executions(EXECUTIONS), target, words)?;
        keep(target, &[row])?;
    }
    let path = root().join("docs/proof.md");
    std::fs::write(&path, document()?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    stages.finish()
}

/// The names of all parts; the rows of each are stored separately.
fn kept_under() -> impl Iterator<Item = &'static str> {
    PROOFS.iter().map(|(name, _)| *name).chain(fuzz::TARGETS.iter().map(|(target, _)| *target))
}

fn keep(name: &str, rows: &[Row]) -> Result<()> {
    println!("\n{}", proof::tables(rows));
    proof::keep(name, rows, &output("git", &["describe", "--always", "--dirty"])?)
}

fn schemas(stages: &Stages) -> Result<Vec<Row>> {
    Ok(vec![fuzz::schemas(stages, "100")?])
}

fn programs(stages: &Stages) -> Result<Vec<Row>> {
    let mut tests = Command::new("cargo");
    // One test at a time, so that each has the machine for itself.
    tests.args(["test", "-q", "-p", "drisse", "--test", "prove", "--", "--test-threads=1"]);
    stages.run("proofs on the real programs", set_up(stages, &mut tests)?.env("DRISSE_PROVE", "whole"))?;
    proof::written()
}

/// Runs `drisse conformance` against Drisse and against other servers, which disagree where a case is wrong. It has no
/// row in docs/proof.md: docs/conformance.md has the results.
fn rivals(stages: &Stages) -> Result<Vec<Row>> {
    let mut rivals = Command::new(stages.need("Python packages", python::environment)?);
    rivals.arg("tests/conformance/rivals.py").arg(release_folder().join("drisse"));
    for name in ["kserve", "mlserver", "pytriton"] {
        let list = format!("requirements-{name}.txt");
        let python = stages.need(&format!("Python packages of {name}"), || python::environment_of(&list))?;
        rivals.arg(format!("{name}={}", python.display()));
    }
    stages.run("conformance: rivals", &mut rivals)?;
    Ok(Vec::new())
}

fn supply_chain(stages: &Stages) -> Result<Vec<Row>> {
    let mut tests = Command::new("cargo");
    tests.args(["test", "-q", "-p", "drisse-scoring", "-p", "drisse-gateway", "--test", "races"]);
    stages.run("thread schedules", set_up(stages, &mut tests)?.env("DRISSE_PROVE", "whole"))?;
    let mut rows = proof::written()?;
    let clean = sanitize::run(stages)?;
    rows.push(Row::supply(
        "the code that calls ONNX Runtime accesses only its own memory and leaks none (AddressSanitizer)",
        if clean { "nothing found" } else { "found something" },
        "nothing found",
        clean,
    ));
    let built = dist::proof()?;
    stages.stage("two builds", |_| Ok(built.iter().all(|row| row.held)))?;
    rows.extend(built);
    Ok(rows)
}

/// Sets the environment in which tests run the release program and write their rows.
pub(crate) fn set_up<'a>(stages: &Stages, tests: &'a mut Command) -> Result<&'a mut Command> {
    let file = proof::file();
    std::fs::create_dir_all(file.parent().context("a file has a folder")?)?;
    let _ = std::fs::remove_file(&file);
    tests.env("DRISSE_BIN", release_folder().join("drisse")).env("DRISSE_PROOF", &file);
    // magika is installed with the Python packages of the tests.
    let python = stages.need("Python packages", python::environment)?;
    let found = Command::new(python).args(["-c", MAGIKA]).output()?;
    ensure!(found.status.success(), "magika is not in the tests' Python environment");
    Ok(tests.env("DRISSE_MAGIKA", String::from_utf8(found.stdout)?.trim()))
}

fn document() -> Result<String> {
    let rows: Vec<_> = kept_under().flat_map(proof::kept).collect();
    let short = match rows.iter().filter(|row| !row.held).count() {
        0 => "Every row meets its limit.".to_owned(),
        missed => format!("{missed} of {} rows miss their limit: those marked **no**.", rows.len()),
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let text = format!(
        "# Proof\n\n`cargo xtask prove` wrote this page, on {} cores of {}, Linux {}. It tests the real programs. \
         You can repeat it, whole or in part (`cargo xtask prove fuzz`, or `cargo xtask prove grpc` for one fuzz target). \
         Each row names the commit that was tested. {short} [SECURITY.md](../SECURITY.md) says what is not promised.\n\n{}",
        std::thread::available_parallelism().map_or(1, usize::from),
        processor.unwrap_or("an unknown processor"),
        output("uname", &["-r"])?,
        proof::tables(&rows),
    );
    Ok(text.trim_end().to_owned() + "\n")
}

/// Returns what a program prints on stdout, trimmed.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
