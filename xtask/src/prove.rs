//! `cargo xtask prove`: tries everything that Drisse promises and writes docs/proof.md; its quick part is
//! in `cargo xtask test`.

use crate::proof::{self, Row, Run};
use crate::steps::Steps;
use crate::{dist, fuzz, python, release_folder, root, sanitize};
use anyhow::{Context, Result, bail, ensure};
use std::process::Command;

/// Prints where magika's model is.
const MAGIKA: &str = "import importlib.util, pathlib; \
    print(pathlib.Path(importlib.util.find_spec('magika').origin).parent / 'models/standard_v3_3/model.onnx')";

/// Something that can be proved by itself.
type Proof = fn(&mut Steps) -> Result<Vec<Row>>;

/// All of them, in the order of docs/proof.md.
const PROOFS: [(&str, Proof); 3] =
    [("programs", programs), ("fuzz", fuzzing), ("supply-chain", supply_chain)];

/// All of it, or what is named; then writes docs/proof.md, with what was proved before of the rest.
pub(crate) fn run(named: &[&str]) -> Result<()> {
    if let Some(unknown) = named.iter().find(|name| PROOFS.iter().all(|(known, _)| known != *name)) {
        let known = PROOFS.map(|(name, _)| name).join(", ");
        bail!("there is no proof `{unknown}`: there are {known}");
    }
    let mut steps = Steps::default();
    steps.run("release build", Command::new("cargo").args(["build", "-q", "--release", "-p", "drisse"]))?;
    for (name, prove) in PROOFS.iter().filter(|(name, _)| named.is_empty() || named.contains(name)) {
        let commit = output("git", &["describe", "--always", "--dirty"])?;
        let run = Run { commit, date: output("date", &["+%Y-%m-%d"])?, rows: prove(&mut steps)? };
        println!("\n{}", proof::tables(&run.rows, ""));
        proof::keep(name, &run)?;
    }
    let path = root().join("docs/proof.md");
    std::fs::write(&path, document()?).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    steps.finish()
}

fn programs(steps: &mut Steps) -> Result<Vec<Row>> {
    let mut tests = Command::new("cargo");
    // One at a time: each has the machine for itself.
    tests.args(["test", "-q", "-p", "drisse", "--test", "prove", "--", "--test-threads=1"]);
    steps.run("proofs on the real programs", set_up(&mut tests)?.env("DRISSE_PROVE", "whole"))?;
    proof::written()
}

fn fuzzing(steps: &mut Steps) -> Result<Vec<Row>> {
    fuzz::run(steps, fuzz::Length::Executions(10_000_000))
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
    let runs: Vec<_> = PROOFS.iter().filter_map(|(name, _)| proof::kept(name)).collect();
    let rows = || runs.iter().flat_map(|run| &run.rows);
    let missed = rows().filter(|row| !row.held).count();
    let short = match missed {
        0 => "Nothing falls short of its limit.".to_owned(),
        _ => format!("{missed} of {} rows fall short of their limit: those marked **no**.", rows().count()),
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let mut text = format!(
        "# Proof\n\n`cargo xtask prove` wrote this page, on {} cores of {}, Linux {}. It runs the real programs; \
         anybody can run it again, all of it or a part (`cargo xtask prove fuzz`). {short} What is not promised is in \
         [SECURITY.md](../SECURITY.md).\n\n",
        std::thread::available_parallelism().map_or(1, usize::from),
        processor.unwrap_or("an unknown processor"),
        output("uname", &["-r"])?,
    );
    for run in &runs {
        text += &proof::tables(&run.rows, &format!("\nAt commit {}, {}.", run.commit, run.date));
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// What a program prints.
fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
