//! Crash points for tests: with `DRISSE_CRASH_POINTS=FOLDER`, each process writes the crash points that it passes to
//! `FOLDER/trace`, and stops or kills itself at a crash point if `FOLDER` has a file of that name.

use rustix::process::{Signal, getpid, kill_process};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Activates the crash points if `DRISSE_CRASH_POINTS` is set.
pub(crate) fn watch() {
    if let Some(folder) = std::env::var_os("DRISSE_CRASH_POINTS") {
        let _ = FOLDER.set(folder.into());
        drisse_core::watch_crash_points(passed);
    }
}

/// The role of this process, as the first word of the names of its crash points.
fn role() -> &'static str {
    match std::env::args_os().nth(1).as_ref().and_then(|word| word.to_str()) {
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
        // A single write, because other processes append too. A test notices a missing line.
        let _ = trace.write_all(format!("{}\t{step}\n", role()).as_bytes());
    }
    let armed = folder.join(format!("{} {step}", role()));
    let Ok(text) = fs::read_to_string(&armed) else { return };
    // `kill 2` kills the process at the second pass.
    let (how, count) = text.trim().split_once(' ').unwrap_or((text.trim(), "1"));
    let left = count.parse().unwrap_or(1_u32) - 1;
    if left > 0 {
        let _ = fs::write(&armed, format!("{how} {left}"));
        return;
    }
    let signal = if how == "stop" { Signal::STOP } else { Signal::KILL };
    // If two processes pass at the same time, the one that renames the file dies. The new name reports it.
    let pid = getpid();
    if fs::rename(&armed, folder.join(format!("{how} {}", pid.as_raw_nonzero()))).is_ok() {
        let _ = kill_process(pid, signal);
    }
}
