//! Dying on purpose: with `DRISSE_STEPS=FOLDER` each process writes the steps it passes to `FOLDER/trace`,
//! and stops or kills itself at the step that a file there is named after. For tests.

use rustix::process::{Signal, getpid, kill_process};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Watches the steps, where that was asked for.
pub(crate) fn watch() {
    if let Some(folder) = std::env::var_os("DRISSE_STEPS") {
        let _ = FOLDER.set(folder.into());
        drisse_core::watch_steps(passed);
    }
}

/// Which of Drisse's processes this is.
fn role() -> &'static str {
    match std::env::args().nth(1).as_deref() {
        Some("control") => "control",
        Some("gateway") => "gateway",
        Some("serve") => "replica",
        _ => "cli",
    }
}

fn passed(step: &'static str) {
    let Some(folder) = FOLDER.get() else { return };
    let trace = fs::OpenOptions::new().create(true).append(true).open(folder.join("trace"));
    if let Ok(mut trace) = trace {
        // One write: other processes write here too. A test that reads it sees what is missing.
        let _ = trace.write_all(format!("{}\t{step}\n", role()).as_bytes());
    }
    let armed = folder.join(format!("{} {step}", role()));
    let Ok(text) = fs::read_to_string(&armed) else { return };
    // `kill 2` dies the second time it is passed.
    let (how, count) = text.trim().split_once(' ').unwrap_or((text.trim(), "1"));
    let left = count.parse().unwrap_or(1_u32) - 1;
    if left > 0 {
        let _ = fs::write(&armed, format!("{how} {left}"));
        return;
    }
    let signal = if how == "stop" { Signal::STOP } else { Signal::KILL };
    // Of two processes that pass at once, one: who takes the file away. The other name says that it happened.
    let pid = getpid();
    if fs::rename(&armed, folder.join(format!("{how} {}", pid.as_raw_nonzero()))).is_ok() {
        let _ = kill_process(pid, signal);
    }
}
