//! Fuzzing of every decoder and of both servers, starting from the corpora of earlier runs. An input that fails is kept
//! in `fuzz/artifacts`; it then becomes a test beside the code.

use crate::proof::Row;
use crate::stages::{Outcome, Stages};
use crate::{cache_folder, python, release_folder, root, setup, target_folder};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The chapter of docs/proof.md.
const PART: &str = "6. Fuzzing";

/// The longest input, in bytes: longer ones are slower and reach hardly any other code.
const MAX_INPUT: usize = 4 << 10;

/// Optimized, with the assertions that `fuzz/Cargo.toml` turns on; without AddressSanitizer, which doubles the build
/// time and finds nothing in code without `unsafe`.
const BUILD: [&str; 3] = ["-O", "-s", "none"];

/// Fuzz targets, each with the dictionary of words for its inputs ("" for none).
pub(crate) const TARGETS: [(&str, &str); 14] = [
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
    ("layout", ""),
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

/// Builds the one program that contains all targets.
pub(crate) fn prepare(stages: &Stages) -> Result<()> {
    stages.need("cargo-fuzz", setup::cargo_fuzz)?;
    stages.run("fuzz targets", &mut build())?;
    Ok(())
}

/// Runs every target and returns one row of docs/proof.md for each.
pub(crate) fn run(stages: &Stages, length: Length) -> Result<Vec<Row>> {
    TARGETS.iter().map(|(target, words)| fuzz(stages, length, target, words)).collect()
}

/// Runs schemathesis against both OpenAPI documents, with this many `cases` for each operation.
pub(crate) fn schemas(stages: &Stages, cases: &str) -> Result<Row> {
    let mut command = Command::new(stages.need("Python packages", python::environment)?);
    command.arg("tests/conformance/schemas.py").arg(release_folder().join("drisse")).arg(cases);
    let Outcome { passed, failed, .. } = stages.run("conformance: schemas", &mut command)?;
    let claim = "both OpenAPI documents: no response is a 5xx, and every response is as documented";
    let figure = format!("{} requests, {failed} findings", grouped(passed + failed));
    Ok(Row::new(PART, claim, figure, "0 findings", passed > 0 && failed == 0))
}

/// Runs one target with this dictionary.
pub(crate) fn fuzz(stages: &Stages, length: Length, target: &str, words: &str) -> Result<Row> {
    let mut command = command(target, words)?;
    command.arg("-print_final_stats=1").arg(match length {
        Length::For(time) => format!("-max_total_time={}", time.as_secs()),
        Length::Executions(count) => format!("-runs={count}"),
    });
    let log = cache_folder().join("fuzz").join(format!("{target}.log"));
    let wanted = if let Length::Executions(wanted) = length { wanted } else { 1 };
    let (mut count, mut seconds) = (0, 0);
    let held = stages.stage(&format!("fuzz {target}"), |output| {
        let began = Instant::now();
        let status = command.stdout(Stdio::null()).stderr(File::create(&log)?).status();
        let succeeded = status.with_context(|| format!("cannot run {command:?}"))?.success();
        seconds = began.elapsed().as_secs();
        let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let executed = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        count = executed.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        // libFuzzer ends with this line if it found nothing. Otherwise its last lines describe the failure and its input.
        let clean = succeeded && text.lines().any(|line| line.starts_with("Done "));
        if !clean {
            let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
            writeln!(output, "{}", lines[lines.len().saturating_sub(60)..].join("\n"))?;
            writeln!(output, "the whole log: {}", log.display())?;
        }
        Ok(clean && count >= wanted)
    })?;
    let findings = if held { "0 findings" } else { "**a finding**" };
    let claim = format!("the fuzz target `{target}` never panics, hangs or violates one of its assertions");
    let figure = format!("{} executions, {seconds} s, {findings}", grouped(count));
    Ok(Row::new(PART, &claim, figure, "0 findings", held))
}

/// `cargo xtask fuzz TARGET [FLAG]…`: builds the targets and runs one with these flags of libFuzzer, until it finds
/// something or is interrupted.
pub(crate) fn by_hand(target: &str, flags: &[&str]) -> Result<()> {
    let known = TARGETS.iter().find(|(name, _)| *name == target);
    let names = TARGETS.map(|(name, _)| name).join(", ");
    let (_, words) =
        known.with_context(|| format!("unknown fuzz target `{target}`, the targets are {names}"))?;
    setup::cargo_fuzz()?;
    ensure!(build().current_dir(root()).status()?.success(), "the build failed");
    ensure!(command(target, words)?.args(flags).status()?.success(), "the fuzz target `{target}` failed");
    Ok(())
}

/// Returns the target folder of the fuzz targets. `RUSTC_BOOTSTRAP` changes what some build scripts do: in the folder of
/// the other builds it would cause libraries to be compiled again, there and here, in every run.
fn folder() -> PathBuf {
    target_folder().join("fuzz")
}

/// The command that builds all targets. It uses flags of the nightly toolchain, which `RUSTC_BOOTSTRAP` allows on stable.
fn build() -> Command {
    let mut command = Command::new("cargo");
    command.env("RUSTC_BOOTSTRAP", "1").args(["fuzz", "build"]).args(BUILD);
    command.arg("--target-dir").arg(folder()).arg("all");
    command
}

/// The command that runs a target, without a limit. What it finds is saved in `fuzz/artifacts`.
fn command(target: &str, words: &str) -> Result<Command> {
    let (corpus, found) =
        (cache_folder().join("fuzz").join(target), Path::new("fuzz/artifacts").join(target));
    for folder in [&corpus, &root().join(&found)] {
        std::fs::create_dir_all(folder)?;
    }
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new(root().join(folder()).join(triple).join("release/all"));
    command.current_dir(root()).stdin(Stdio::null()).env("DRISSE_FUZZ", target);
    command.args(["-timeout=20", "-rss_limit_mb=1024"]).arg(format!("-max_len={MAX_INPUT}"));
    command.arg(format!("-artifact_prefix={}/", found.display()));
    if !words.is_empty() {
        command.arg(format!("-dict=fuzz/{words}"));
    }
    command.arg(corpus).arg(Path::new("fuzz/seeds").join(target));
    Ok(command)
}

/// Formats a count with thousands separators: `10,000,000`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
