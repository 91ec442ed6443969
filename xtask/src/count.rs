//! `cargo xtask count`: what a request costs beside its model, in instructions as valgrind counts them, against the
//! budget in `bench/instructions.toml`. No test of time: a busy machine counts the same.

use crate::steps::Steps;
use crate::{release_folder, root, target_folder};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const STEP: &str = "instructions of a request";

/// What is counted, as the budget and `bench/src/instructions.rs` call it.
const PROTOCOLS: [&str; 4] = ["v2_json", "score", "v2_binary", "grpc"];

/// Requests that a count is the mean of.
const REQUESTS: u64 = 1000;

/// A count so far over its budget, in percent, fails. From run to run counts differ by up to 0.8 % (`/score` prints how
/// long it took, and some times are longer to print than others; the rest differs by 0.1 %); what is left is for
/// processors and C libraries that copy and search in other ways.
const OVER: f64 = 3.0;

/// A budget so far over its count guards nothing any more.
const UNDER: f64 = 10.0;

/// What stands before the numbers in the budget's file.
const HEAD: &str = "\
# Instructions that one request of a tiny model costs, HTTP, keys, ids and metrics included, the model not (and its
# client, a few hundred). `cargo xtask test` counts them with callgrind and fails where one is over by 3 %.
#
# They are those of x86-64 with AVX2 and of the compiler in rust-toolchain.toml: another compiler, and a new version of
# hyper or tokio, may move them without anything being wrong. `WRITE_DOCS=1 cargo xtask count` writes them anew; the
# commit says why they grew.
";

/// Counts, and tells where budgets are exceeded; writes them anew where `WRITE_DOCS` asks for that.
pub(crate) fn alone() -> Result<()> {
    if std::env::var_os("WRITE_DOCS").is_some() {
        build()?;
        ensure!(is_there(), "valgrind is needed: `apt-get install valgrind`");
        let counts = PROTOCOLS.iter().map(|protocol| Ok(format!("{protocol} = {}\n", count(protocol)?)));
        let counts = counts.collect::<Result<String>>()?;
        print!("{counts}");
        std::fs::write(file(), format!("{HEAD}\n{counts}"))?;
        return Ok(());
    }
    ensure!(compare()?.unwrap_or(true), "a request costs more than its budget");
    Ok(())
}

/// A step of the tests.
pub(crate) fn run(steps: &mut Steps) -> Result<()> {
    if let Some(held) = compare()? {
        steps.note(STEP, held);
    }
    Ok(())
}

/// Whether every budget holds; none where nothing can be counted.
fn compare() -> Result<Option<bool>> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("\n=== {STEP}: not counted, the budget is of x86-64");
        return Ok(None);
    }
    if !is_there() {
        ensure!(std::env::var_os("CI").is_none(), "valgrind is needed here: run as root");
        println!(
            "\n=== {STEP}: not counted, valgrind is missing: `apt-get install valgrind`, or run as root"
        );
        return Ok(None);
    }
    build()?;
    let budgets =
        std::fs::read_to_string(file()).with_context(|| format!("cannot read {}", file().display()))?;
    let budgets: toml::Table = budgets.parse()?;
    println!();
    let mut held = true;
    for protocol in PROTOCOLS {
        let budget = budgets.get(protocol).and_then(toml::Value::as_integer);
        let budget = budget.with_context(|| format!("{} says nothing of {protocol}", file().display()))?;
        let counted = count(protocol)?;
        let verdict = Verdict::of(counted, u64::try_from(budget)?);
        println!("{protocol}: {counted} instructions a request, {}", verdict.text(budget));
        if matches!(verdict, Verdict::Over(_)) {
            held = false;
            let profile = profile(protocol);
            println!("    where: callgrind_annotate --inclusive=yes {} | head -80", profile.display());
            println!("    if it is worth that: WRITE_DOCS=1 cargo xtask count");
        }
    }
    Ok(Some(held))
}

/// A count beside its budget, with the difference in percent.
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
                format!("over the budget of {budget} by {percent:.1} %: at most {OVER} % are")
            }
            Self::Within(percent) => format!("budget {budget} ({percent:+.1} %)"),
            Self::FarUnder(percent) => {
                format!(
                    "budget {budget} ({percent:+.1} %): lower it, so that this stays: `WRITE_DOCS=1 cargo xtask count`"
                )
            }
        }
    }
}

fn file() -> PathBuf {
    root().join("bench/instructions.toml")
}

/// What callgrind wrote of a protocol.
fn profile(protocol: &str) -> PathBuf {
    target_folder().join("callgrind").join(format!("{protocol}.out"))
}

/// Whether there is valgrind, installed from its Debian package where there is none.
fn is_there() -> bool {
    let quiet = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let asked = ["valgrind", "--version"];
    let install = ["apt-get", "install", "-y", "-q", "valgrind"];
    let installed = || quiet(&install) || quiet(&["apt-get", "update"]) && quiet(&install);
    quiet(&asked) || installed() && quiet(&asked)
}

/// Together with the program, so that both are made of the same libraries: next to nothing is built twice.
fn build() -> Result<()> {
    let mut build = Command::new("cargo");
    build.args(["build", "-q", "--release", "-p", "drisse", "-p", "bench", "--bin", "instructions"]);
    ensure!(build.current_dir(root()).status()?.success(), "the build failed");
    Ok(())
}

/// Instructions a request of a protocol.
fn count(protocol: &str) -> Result<u64> {
    let profile = profile(protocol);
    std::fs::create_dir_all(profile.parent().unwrap_or(Path::new(".")))?;
    let mut valgrind = Command::new("valgrind");
    // Counting is on while the function of this name runs, with whatever it calls.
    valgrind.args(["--tool=callgrind", "--toggle-collect=instructions::counted*"]);
    valgrind.arg(format!("--callgrind-out-file={}", profile.display()));
    valgrind.arg(release_folder().join("instructions")).arg(protocol).arg(REQUESTS.to_string());
    let output = valgrind.stdin(Stdio::null()).output().context("cannot run valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{protocol} cannot be counted:\n{said}");
    let text = String::from_utf8_lossy(&std::fs::read(&profile)?).into_owned();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    let total: u64 =
        total.and_then(|total| total.trim().parse().ok()).context("callgrind's file has no total")?;
    ensure!(total > REQUESTS, "nothing was counted: is there no function `counted` any more?");
    Ok(total / REQUESTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_over_the_budget_passes_and_far_under_it_is_told() {
        for (counted, verdict) in
            [(10_290, "Within"), (10_310, "Over"), (9_010, "Within"), (8_990, "FarUnder")]
        {
            let is = format!("{:?}", Verdict::of(counted, 10_000));
            assert!(is.starts_with(verdict), "{counted}: {is}");
        }
    }
}
