//! Developer tasks. `cargo xtask test` sets up what the tests need and runs all of them; `cargo xtask count` counts the
//! instructions per request; `cargo xtask bench` measures performance against its limits; `cargo xtask prove` tests
//! Drisse's promises at length; `cargo xtask dist` builds the release files.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints its results")]

mod bench;
mod count;
mod dist;
mod fuzz;
mod lines;
mod proof;
mod prove;
mod python;
mod sanitize;
mod sbom;
mod setup;
mod source;
mod stages;
mod test;
#[cfg(test)]
mod tidy;
mod tools;

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::LazyLock;

const USAGE: &str = "\
cargo xtask test           sets up what the tests need and runs all of them
cargo xtask count          counts the instructions per request and compares the budget
cargo xtask bench          measures start, memory, throughput and CPU against limits
cargo xtask prove [PART]…  tests Drisse's promises at length and writes docs/proof.md
cargo xtask fuzz TARGET    runs one fuzz target until it finds something or is interrupted
cargo xtask lines [REV]    counts lines of Rust per crate, compared with a git revision
cargo xtask dist           builds the release files: program, digests, bill of materials
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test::run(),
        ["count"] => count::alone(),
        ["bench"] => bench::run(),
        ["prove", ref named @ ..] => prove::run(named),
        ["fuzz", target, ref flags @ ..] => fuzz::by_hand(target, flags),
        ["lines"] => lines::run(None),
        ["lines", revision] => lines::run(Some(revision)),
        ["dist"] => dist::run(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root: where cargo runs this program, which another clone with the same build folder may have built.
fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
        Path::new(&manifest).parent().expect("xtask/ is in the repository's root").to_owned()
    });
    &ROOT
}

/// Runs a command that has to succeed, and returns what it prints on stdout.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The target folder of cargo.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The folder of release binaries.
fn release_folder() -> PathBuf {
    target_folder().join("release")
}

/// The folder, outside the repository, for tools and results that are kept between runs.
fn cache_folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into())).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("drisse")
}
