//! What a developer runs. `cargo xtask test` sets up what the tests need and runs them all;
//! `cargo xtask count` counts the instructions of a request; `cargo xtask bench` measures against the limits;
//! `cargo xtask prove` tries what is promised; `cargo xtask dist` builds what is handed out.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer's tool talks to its developer")]

mod bench;
mod count;
mod dist;
mod fuzz;
mod proof;
mod prove;
mod python;
mod sanitize;
mod sbom;
mod steps;
mod test;
#[cfg(test)]
mod tidy;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test::run(),
        ["count"] => count::alone(),
        ["bench"] => bench::run(),
        ["prove", ref named @ ..] => prove::run(named),
        ["dist"] => dist::run(),
        _ => {
            eprintln!("cargo xtask test    sets up what the tests need and runs them all");
            eprintln!("cargo xtask count   counts the instructions of a request, beside their budget");
            eprintln!("cargo xtask bench   measures start, memory, throughput and CPU beside their limits");
            eprintln!(
                "cargo xtask prove   tries everything that is promised and writes docs/proof.md; or one part of it"
            );
            eprintln!(
                "cargo xtask dist    builds what is handed out: the program, its digests, what it is made of"
            );
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

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root")
}

/// Where binaries are built.
fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where release binaries are built.
fn release_folder() -> PathBuf {
    target_folder().join("release")
}

/// Where things are kept between runs, outside of the repository.
fn cache_folder() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into())).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("drisse")
}
