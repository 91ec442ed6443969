//! Fuzzing: every decoder and both servers, with the corpora of earlier runs. What is found stays in
//! `fuzz/artifacts`, and becomes a test beside the code.

use crate::proof::Row;
use crate::steps::Steps;
use crate::{cache_folder, python, release_folder, root};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The chapter of the proof.
const PART: &str = "6. Fuzzing";

/// The version whose flags these are.
const CARGO_FUZZ: &str = "0.13.1";

/// The longest input. What lies deeper is found by inputs like it.
const MAX_INPUT: usize = 4 << 10;

/// Optimised, with the assertions of `fuzz/Cargo.toml`; without the address sanitizer, which doubles the
/// build and finds nothing in code that is not `unsafe`.
const BUILD: [&str; 3] = ["-O", "-s", "none"];

/// A target, and the words its inputs are made of.
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

/// How much is tried with each target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// What CI has time for.
    For(Duration),
    /// What is promised.
    Executions(u64),
}

/// Fuzzes with each target; a row of the proof for each.
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

/// schemathesis against both OpenAPI documents, with as many `cases` for each operation.
pub(crate) fn schemas(steps: &mut Steps, cases: &str) -> Result<Row> {
    let (passed, failed) = (steps.passed, steps.failed);
    let mut command = Command::new(python::environment()?);
    command.arg("tests/conformance/schemas.py").arg(release_folder().join("drisse")).arg(cases);
    steps.run("conformance: schemas", &mut command)?;
    let (passed, failed) = (steps.passed - passed, steps.failed - failed);
    Ok(Row {
        part: PART.to_owned(),
        claim: "both OpenAPI documents: no answer is a 5xx, every one is as documented".to_owned(),
        figure: format!("{} requests, {failed} findings", grouped(passed + failed)),
        limit: "0 findings".to_owned(),
        held: passed > 0 && failed == 0,
        commit: String::new(),
    })
}

/// Fuzzes with one target, with these words.
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
    // libFuzzer's last word when it found nothing; else what went wrong, and where the input is.
    let clean = text.lines().any(|line| line.starts_with("Done "));
    if !clean {
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        println!("{}\nall of it: {}", lines[lines.len().saturating_sub(60)..].join("\n"), log.display());
    }
    let wanted = if let Length::Executions(wanted) = length { wanted } else { 1 };
    let findings = if clean { "0 findings" } else { "**a finding**" };
    Ok(Row {
        part: PART.to_owned(),
        claim: format!("`{target}` never panics, hangs or breaks a promise of its target"),
        figure: format!("{} executions, {seconds} s, {findings}", grouped(count)),
        limit: "0 findings".to_owned(),
        held: clean && count >= wanted,
        commit: String::new(),
    })
}

/// `cargo fuzz`, which wants a nightly toolchain's flags of the stable one.
fn cargo(verb: &str) -> Command {
    let mut command = Command::new("cargo");
    command.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", verb]);
    command
}

fn install() -> Result<()> {
    let mut asked = cargo("--version");
    if asked.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    println!("\ninstalling cargo-fuzz {CARGO_FUZZ} (once)");
    let mut install = Command::new("cargo");
    install.args(["install", "-q", "--locked", "cargo-fuzz", "--version", CARGO_FUZZ]);
    // Outside of the workspace its target folder and toolchain file do not apply.
    let folder = root().parent().unwrap_or(Path::new("/"));
    let installed = install.current_dir(folder).status().context("cannot run cargo")?;
    ensure!(installed.success(), "cannot install cargo-fuzz");
    Ok(())
}

/// `10,000,000`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
