//! Fuzzing of every decoder and of both servers, starting from the corpora of earlier runs. An input that fails is kept
//! in `fuzz/artifacts`; it then becomes a test beside the code.

use crate::proof::Row;
use crate::steps::Steps;
use crate::{cache_folder, python, release_folder, root};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The chapter of docs/proof.md.
const PART: &str = "6. Fuzzing";

/// The version of cargo-fuzz that the flags below belong to.
const CARGO_FUZZ: &str = "0.13.1";

/// The longest input, in bytes: longer ones are slower and reach hardly any other code.
const MAX_INPUT: usize = 4 << 10;

/// Optimized, with the assertions that `fuzz/Cargo.toml` turns on; without AddressSanitizer, which doubles the build
/// time and finds nothing in code without `unsafe`.
const BUILD: [&str; 3] = ["-O", "-s", "none"];

/// Fuzz targets, each with the dictionary of words for its inputs ("" for none).
pub(crate) const TARGETS: [(&str, &str); 13] = [
    ("v2", "json.dict"),
    ("score", "json.dict"),
    ("predict", "json.dict"),
    ("grpc", ""),
    ("inspect", ""),
    ("elf", ""),
    ("archive", ""),
    ("package", "json.dict"),
    ("routes", "json.dict"),
    ("control", "json.dict"),
    ("keys", ""),
    ("http", "http.dict"),
    ("gateway_http", "http.dict"),
];

/// How long each target is fuzzed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// For this long: the quick part of `cargo xtask test`.
    For(Duration),
    /// For this many executions: `cargo xtask prove`.
    Executions(u64),
}

/// Runs every target and returns one row of docs/proof.md for each.
pub(crate) fn run(steps: &mut Steps, length: Length) -> Result<Vec<Row>> {
    prepare(steps)?;
    let fuzzed = TARGETS.iter().map(|(target, words)| fuzz(steps, length, target, words));
    fuzzed.collect()
}

/// Builds the targets.
pub(crate) fn prepare(steps: &mut Steps) -> Result<()> {
    install()?;
    steps.run("fuzz targets", cargo("build").args(BUILD))?;
    Ok(())
}

/// Runs schemathesis against both OpenAPI documents, with this many `cases` for each operation.
pub(crate) fn schemas(steps: &mut Steps, cases: &str) -> Result<Row> {
    let (passed, failed) = (steps.passed, steps.failed);
    let mut command = Command::new(python::environment()?);
    command.arg("tests/conformance/schemas.py").arg(release_folder().join("drisse")).arg(cases);
    steps.run("conformance: schemas", &mut command)?;
    let (passed, failed) = (steps.passed - passed, steps.failed - failed);
    Ok(Row {
        part: PART.to_owned(),
        claim: "both OpenAPI documents: no response is a 5xx, and every response is as documented".to_owned(),
        figure: format!("{} requests, {failed} findings", grouped(passed + failed)),
        limit: "0 findings".to_owned(),
        held: passed > 0 && failed == 0,
        commit: String::new(),
    })
}

/// Runs one target with this dictionary.
pub(crate) fn fuzz(steps: &mut Steps, length: Length, target: &str, words: &str) -> Result<Row> {
    let corpus = cache_folder().join("fuzz").join(target);
    std::fs::create_dir_all(&corpus)?;
    let log = cache_folder().join("fuzz").join(format!("{target}.log"));
    let mut command = cargo("run");
    command.args(BUILD).arg(target).arg(&corpus).arg(Path::new("fuzz/seeds").join(target));
    command.args(["--", "-print_final_stats=1", "-timeout=20", "-rss_limit_mb=1024"]);
    command.arg(format!("-max_len={MAX_INPUT}"));
    command.arg(match length {
        Length::For(time) => format!("-max_total_time={}", time.as_secs()),
        Length::Executions(count) => format!("-runs={count}"),
    });
    if !words.is_empty() {
        command.arg(format!("-dict=fuzz/{words}"));
    }
    let started = Instant::now();
    steps.run(&format!("fuzz {target}"), command.stderr(File::create(&log)?))?;
    let seconds = started.elapsed().as_secs();
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let count = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let count: u64 = count.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    // libFuzzer ends with this line if it found nothing. Otherwise its last lines describe the failure and its input.
    let clean = text.lines().any(|line| line.starts_with("Done "));
    if !clean {
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        println!("{}\nthe whole log: {}", lines[lines.len().saturating_sub(60)..].join("\n"), log.display());
    }
    let wanted = if let Length::Executions(wanted) = length { wanted } else { 1 };
    let findings = if clean { "0 findings" } else { "**a finding**" };
    Ok(Row {
        part: PART.to_owned(),
        claim: format!("the fuzz target `{target}` never panics, hangs or violates one of its assertions"),
        figure: format!("{} executions, {seconds} s, {findings}", grouped(count)),
        limit: "0 findings".to_owned(),
        held: clean && count >= wanted,
        commit: String::new(),
    })
}

/// Builds a `cargo fuzz` command. It uses flags of the nightly toolchain, which `RUSTC_BOOTSTRAP` allows on stable.
fn cargo(verb: &str) -> Command {
    let mut command = Command::new("cargo");
    command.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", verb]);
    command
}

fn install() -> Result<()> {
    let mut version = cargo("--version");
    if version.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    println!("\ninstalling cargo-fuzz {CARGO_FUZZ} (once)");
    let mut install = Command::new("cargo");
    install.args(["install", "-q", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ]);
    // Outside the workspace, so that its target folder and its toolchain file do not apply.
    let folder = root().parent().unwrap_or(Path::new("/"));
    let installed = install.current_dir(folder).status().context("cannot run cargo")?;
    ensure!(installed.success(), "cannot install cargo-fuzz");
    Ok(())
}

/// Formats a count with thousands separators: `10,000,000`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
