//! `cargo xtask prove`: tries everything that Drisse promises and writes docs/proof.md; its quick part is
//! in `cargo xtask test`.

use crate::proof::{self, Row};
use crate::steps::Steps;
use crate::{dist, fuzz, python, release_folder, root, sanitize};
use anyhow::{Context, Result, bail, ensure};
use std::process::Command;

/// Prints where magika's model is.
const MAGIKA: &str = "import importlib.util, pathlib; \
    print(pathlib.Path(importlib.util.find_spec('magika').origin).parent / 'models/standard_v3_3/model.onnx')";

/// Something that can be proved by itself.
type Proof = fn(&mut Steps) -> Result<Vec<Row>>;

/// All but fuzzing, which is one proof for each target.
const PROOFS: [(&str, Proof); 3] =
    [("programs", programs), ("schemas", schemas), ("supply-chain", supply_chain)];

/// What stands for all targets of fuzzing.
const FUZZ: &str = "fuzz";

/// Executions of each.
const EXECUTIONS: u64 = 10_000_000;

/// All of it, or what is named; then writes docs/proof.md, with what was proved before of the rest.
pub(crate) fn run(named: &[&str]) -> Result<()> {
    let known: Vec<_> = kept_under().chain([FUZZ]).collect();
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        bail!("there is no proof `{unknown}`: there are {}", known.join(", "));
    }
    let mut steps = Steps::default();
    steps.run("release build", Command::new("cargo").args(["build", "-q", "--release", "-p", "drisse"]))?;
    let is_wanted = |name: &&str| named.is_empty() || named.contains(name);
    for (name, prove) in PROOFS.iter().filter(|(name, _)| is_wanted(name)) {
        let rows = prove(&mut steps)?;
        keep(name, &rows)?;
    }
    let targets = fuzz::TARGETS.iter().filter(|(target, _)| is_wanted(target) || named.contains(&FUZZ));
    for (nth, (target, words)) in targets.enumerate() {
        if nth == 0 {
            fuzz::prepare(&mut steps)?;
        }
        let row = fuzz::fuzz(&mut steps, fuzz::Length::Executions(EXECUTIONS), target, words)?;
        keep(target, &[row])?;
    }
    let path = root().join("docs/proof.md");
    std::fs::write(&path, document()?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    steps.finish()
}

/// The names of what is kept by itself.
fn kept_under() -> impl Iterator<Item = &'static str> {
    PROOFS.iter().map(|(name, _)| *name).chain(fuzz::TARGETS.iter().map(|(target, _)| *target))
}

fn keep(name: &str, rows: &[Row]) -> Result<()> {
    println!("\n{}", proof::tables(rows));
    proof::keep(name, rows, &output("git", &["describe", "--always", "--dirty"])?)
}

fn schemas(steps: &mut Steps) -> Result<Vec<Row>> {
    Ok(vec![fuzz::schemas(steps, "100")?])
}

fn programs(steps: &mut Steps) -> Result<Vec<Row>> {
    let mut tests = Command::new("cargo");
    // One at a time: each has the machine for itself.
    tests.args(["test", "-q", "-p", "drisse", "--test", "prove", "--", "--test-threads=1"]);
    steps.run("proofs on the real programs", set_up(&mut tests)?.env("DRISSE_PROVE", "whole"))?;
    proof::written()
}

fn supply_chain(steps: &mut Steps) -> Result<Vec<Row>> {
    let mut tests = Command::new("cargo");
    tests.args(["test", "-q", "-p", "drisse-scoring", "-p", "drisse-gateway", "--test", "races"]);
    steps.run("orders of steps", set_up(&mut tests)?.env("DRISSE_PROVE", "whole"))?;
    let mut rows = proof::written()?;
    let clean = sanitize::run(steps)?;
    rows.push(Row::supply(
        "what calls ONNX Runtime touches no memory that is not its own and leaves none behind (AddressSanitizer)",
        if clean { "nothing found" } else { "found something" },
        "nothing found",
        clean,
    ));
    let built = dist::proof()?;
    steps.note("two builds", built.iter().all(|row| row.held));
    rows.extend(built);
    Ok(rows)
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

fn document() -> Result<String> {
    let rows: Vec<_> = kept_under().flat_map(proof::kept).collect();
    let short = match rows.iter().filter(|row| !row.held).count() {
        0 => "Nothing falls short of its limit.".to_owned(),
        missed => format!("{missed} of {} rows fall short of their limit: those marked **no**.", rows.len()),
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let text = format!(
        "# Proof\n\n`cargo xtask prove` wrote this page, on {} cores of {}, Linux {}. It runs the real programs; \
         anybody can run it again, all of it or a part (`cargo xtask prove fuzz`, or `grpc` alone); each row says of which \
         commit it is. {short} What is not promised is in [SECURITY.md](../SECURITY.md).\n\n{}",
        std::thread::available_parallelism().map_or(1, usize::from),
        processor.unwrap_or("an unknown processor"),
        output("uname", &["-r"])?,
        proof::tables(&rows),
    );
    Ok(text.trim_end().to_owned() + "\n")
}

/// What a program prints.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
