//! `cargo xtask count`: counts with valgrind the instructions that a request costs besides its model, and compares them
//! with the budget in `bench/instructions.toml`. Unlike times, the counts do not depend on how busy the machine is.

use crate::setup::installed;
use crate::stages::{Output, Stages};
use crate::{release_folder, root, target_folder};
use anyhow::{Context, Result, ensure};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const STAGE: &str = "instructions of a request";

/// The protocols that are counted, by their names in the budget and in `bench/src/instructions.rs`.
const PROTOCOLS: [&str; 4] = ["v2_json", "score", "v2_binary", "grpc"];

/// A count is the mean of this many requests.
const REQUESTS: u64 = 1000;

/// A count that exceeds its budget by more than this, in percent, fails. Between runs, counts differ by up to 0.8 %
/// for `/score` (which prints how long it took: a text of varying length) and by 0.1 % for the others. The remainder
/// allows for processors and C libraries that copy and search differently.
const OVER: f64 = 3.0;

/// A count that is below its budget by more than this, in percent, is reported: such a budget no longer protects.
const UNDER: f64 = 10.0;

/// The comment at the top of the budget's file.
const HEAD: &str = "\
# Instructions that one request to a tiny model costs: with HTTP, keys, IDs, metrics and the client (a few hundred),
# without the model. `cargo xtask test` counts them with callgrind and fails if a count is more than 3 % over its
# budget.
#
# The numbers apply to x86-64 with AVX2 and to the compiler in rust-toolchain.toml: another compiler, or a new version
# of hyper or tokio, may change them although nothing is wrong. `WRITE_DOCS=1 cargo xtask count` updates them; the
# commit message explains why they grew.
";

/// Counts, and fails if a budget is exceeded. With `WRITE_DOCS` set, writes the counts as the new budgets instead.
pub(crate) fn alone() -> Result<()> {
    build()?;
    if std::env::var_os("WRITE_DOCS").is_some() {
        ensure!(is_there(), "valgrind is needed: `apt-get install valgrind`");
        let counts = PROTOCOLS.iter().map(|protocol| Ok(format!("{protocol} = {}\n", count(protocol)?)));
        let counts = counts.collect::<Result<String>>()?;
        print!("{counts}");
        std::fs::write(file(), format!("{HEAD}\n{counts}"))?;
        return Ok(());
    }
    ensure!(!can_count()? || compare(&mut Output::live())?, "a request costs more than its budget");
    Ok(())
}

/// Runs the comparison as a stage of `cargo xtask test`. The program must be built.
pub(crate) fn run(stages: &Stages) -> Result<()> {
    if stages.need("valgrind", can_count)? {
        stages.stage(STAGE, compare)?;
    }
    Ok(())
}

/// Returns whether this machine can count; says why if it cannot.
fn can_count() -> Result<bool> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("\n=== {STAGE}: not counted, the budget applies to x86-64 Linux only");
        return Ok(false);
    }
    if !is_there() {
        let is_ci = std::env::var_os("CI").is_some();
        ensure!(!is_ci, "CI requires valgrind, which cannot be installed: run as root");
        let remedy = "`apt-get install valgrind`, or run as root";
        println!("\n=== {STAGE}: not counted, valgrind is not installed: {remedy}");
        return Ok(false);
    }
    Ok(true)
}

/// Returns whether every budget holds.
fn compare(output: &mut Output) -> Result<bool> {
    let budgets =
        std::fs::read_to_string(file()).with_context(|| format!("cannot read {}", file().display()))?;
    let budgets: toml::Table = budgets.parse()?;
    let mut held = true;
    for protocol in PROTOCOLS {
        let budget = budgets.get(protocol).and_then(toml::Value::as_integer);
        let budget = budget.with_context(|| format!("{} has no budget for {protocol}", file().display()))?;
        let counted = count(protocol)?;
        let verdict = Verdict::of(counted, u64::try_from(budget)?);
        writeln!(output, "{protocol}: {counted} instructions per request, {}", verdict.text(budget))?;
        if matches!(verdict, Verdict::Over(_)) {
            held = false;
            let profile = profile(protocol);
            let annotate = format!("callgrind_annotate --inclusive=yes {} | head -80", profile.display());
            writeln!(output, "    to see where they are spent: {annotate}")?;
            writeln!(output, "    if the change is worth them: WRITE_DOCS=1 cargo xtask count")?;
        }
    }
    Ok(held)
}

/// The result of comparing a count with its budget, with the difference in percent.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Verdict {
    Over(f64),
    Within(f64),
    FarUnder(f64),
}

impl Verdict {
    fn of(counted: u64, budget: u64) -> Self {
        let percent = (counted as f64 / budget as f64 - 1.0) * 100.0;
        match percent {
            percent if percent > OVER => Self::Over(percent),
            percent if percent < -UNDER => Self::FarUnder(percent),
            percent => Self::Within(percent),
        }
    }

    fn text(self, budget: i64) -> String {
        match self {
            Self::Over(percent) => {
                format!("{percent:.1} % over the budget of {budget}, at most {OVER} % is allowed")
            }
            Self::Within(percent) => format!("budget {budget} ({percent:+.1} %)"),
            Self::FarUnder(percent) => {
                let gain = "lower the budget to keep the gain: `WRITE_DOCS=1 cargo xtask count`";
                format!("budget {budget} ({percent:+.1} %): {gain}")
            }
        }
    }
}

fn file() -> PathBuf {
    root().join("bench/instructions.toml")
}

/// The file that callgrind writes for a protocol.
fn profile(protocol: &str) -> PathBuf {
    target_folder().join("callgrind").join(format!("{protocol}.out"))
}

/// Returns whether valgrind works; installs its Debian package first if it does not.
fn is_there() -> bool {
    installed("valgrind", &["valgrind", "--version"])
}

/// Builds `drisse` and the counted program together: with the same features, so that their libraries are built once.
pub(crate) fn build_command() -> Command {
    let mut build = Command::new("cargo");
    build.args(["build", "-q", "--release", "-p", "drisse", "-p", "bench"]);
    build.args(["--bin", "drisse", "--bin", "instructions"]);
    build
}

fn build() -> Result<()> {
    ensure!(build_command().current_dir(root()).status()?.success(), "the build failed");
    Ok(())
}

/// Counts the instructions per request of a protocol.
fn count(protocol: &str) -> Result<u64> {
    let profile = profile(protocol);
    std::fs::create_dir_all(profile.parent().unwrap_or(Path::new(".")))?;
    let mut valgrind = Command::new("valgrind");
    // Callgrind counts only while this function, or a function it calls, runs.
    valgrind.args(["--tool=callgrind", "--toggle-collect=instructions::counted*"]);
    valgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    valgrind.arg(release_folder().join("instructions")).arg(protocol).arg(REQUESTS.to_string());
    let output = valgrind.stdin(Stdio::null()).output().context("cannot run valgrind")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot count {protocol}:\n{stderr}");
    let text = String::from_utf8_lossy(&std::fs::read(&profile)?).into_owned();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 =
        total.and_then(|total| total.trim().parse().ok()).context("the file of callgrind has no total")?;
    ensure!(total > REQUESTS, "nothing was counted: was the function `instructions::counted` renamed?");
    Ok(total / REQUESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_over_the_budget_passes_and_far_under_it_is_reported() {
        for (counted, verdict) in
            [(10_290, "Within"), (10_310, "Over"), (9_010, "Within"), (8_990, "FarUnder")]
        {
            let is = format!("{:?}", Verdict::of(counted, 10_000));
            assert!(is.starts_with(verdict), "{counted}: {is}");
        }
    }
}
