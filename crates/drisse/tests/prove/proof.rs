//! Writes the rows of docs/proof.md: a promise, the measured figure and its limit.

use serde_json::json;
use std::fmt::Display;
use std::io::Write;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A test that measures times holds it for writing, every other test for reading.
static MACHINE: RwLock<()> = RwLock::new(());

/// Waits until no other test of this program runs. A test that measures holds the guard until its end.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no test measures. A test that does not measure holds the guard until its end.
pub(crate) fn among_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether to run the whole test (`cargo xtask prove`) or only its quick part.
pub(crate) fn whole() -> bool {
    std::env::var("DRISSE_PROVE").is_ok_and(|how| how == "whole")
}

/// Writes a row with the measured figure and its limit, then panics if the claim does not hold. `part` is the chapter
/// in docs/proof.md, `claim` a sentence.
#[track_caller]
pub(crate) fn holds(part: &str, claim: &str, figure: impl Display, limit: impl Display, held: bool) {
    let row = json!({
        "part": part,
        "claim": claim,
        "figure": figure.to_string(),
        "limit": limit.to_string(),
        "held": held,
    });
    if let Some(path) = std::env::var_os("DRISSE_PROOF") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        // In one write, because other tests append to this file too.
        file.write_all(format!("{row}\n").as_bytes()).unwrap();
    }
    assert!(held, "{claim}: {figure}, and the limit is {limit}");
}
