//! A proof's figure: one line of docs/proof.md.

use serde_json::json;
use std::fmt::Display;
use std::io::Write;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Held for writing by who measures, for reading by everybody else.
static MACHINE: RwLock<()> = RwLock::new(());

/// To be held by a test that measures: it has the machine for itself.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// To be held by a test that does not.
pub(crate) fn among_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Whether everything is to be tried (`cargo xtask prove`), or only what is quick.
pub(crate) fn whole() -> bool {
    std::env::var("DRISSE_PROVE").is_ok_and(|how| how == "whole")
}

/// Writes down what was measured beside what was promised, then fails where that does not hold. `part` is
/// the chapter in docs/proof.md, `claim` a sentence.
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
        // One write: other tests write here too.
        file.write_all(format!("{row}\n").as_bytes()).unwrap();
    }
    assert!(held, "{claim}: {figure}, and the limit is {limit}");
}
