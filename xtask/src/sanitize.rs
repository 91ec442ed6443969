//! AddressSanitizer for `drisse-engines`, the one crate with `unsafe`: runs its tests on real models, checks every
//! memory access of the crate's own code, and reports leaks at the end.
//!
//! ONNX Runtime and the standard library are not instrumented: only their allocations, and accesses of our code to
//! them, are checked. Accesses beyond a tensor that lies inside ONNX Runtime's arena are not detected.

use crate::stages::Stages;
use crate::target_folder;
use anyhow::Result;
use std::process::Command;

/// Builds the tests into a separate folder, runs them, and returns whether they found nothing.
pub(crate) fn run(stages: &Stages) -> Result<bool> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut tests = Command::new("cargo");
    // With an explicit target, macros and build scripts are built without the sanitizer.
    tests.args(["test", "-q", "-p", "drisse-engines", "--lib", "--tests", "--target", &triple]);
    tests.env("DRISSE_SANITIZED", "1").env("CARGO_TARGET_DIR", target_folder().join("asan"));
    // The stable compiler contains the sanitizer's runtime, but allows the flag only with RUSTC_BOOTSTRAP.
    tests.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    // So that a report contains line numbers.
    tests.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
    tests.env("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1");
    Ok(stages.run("calls of ONNX Runtime under AddressSanitizer", &mut tests)?.succeeded)
}
