//! AddressSanitizer at the ONNX Runtime seam: the one crate with `unsafe`, its tests run on real models with
//! every access of its own code checked, and everything that is never freed told at the end.
//!
//! What ONNX Runtime and the standard library do inside is not instrumented: their blocks are watched where
//! our code touches them and where they are allocated and freed, and a tensor inside of ONNX Runtime's arena has
//! no fence around it.

use crate::steps::Steps;
use crate::target_folder;
use anyhow::Result;
use std::process::Command;

/// Builds into a folder of its own and runs; tells whether nothing was found.
pub(crate) fn run(steps: &mut Steps) -> Result<bool> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut tests = Command::new("cargo");
    // With a target named, macros and build scripts stay as they are.
    tests.args(["test", "-q", "-p", "drisse-engines", "--target", &triple]);
    tests.env("DRISSE_SANITIZED", "1").env("CARGO_TARGET_DIR", target_folder().join("asan"));
    // The stable compiler brings the sanitizer's runtime along, and this lets it be used.
    tests.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    // A finding names lines.
    tests.env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only");
    tests.env("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1");
    steps.run("ONNX Runtime's seam under AddressSanitizer", &mut tests)
}
