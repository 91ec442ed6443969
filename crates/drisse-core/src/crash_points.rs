//! Crash points: named moments at which tests stop or kill the process.

use std::sync::OnceLock;

static WATCHER: OnceLock<fn(&'static str)> = OnceLock::new();

/// Passes the crash point `name`. Call it after every change that outlives the process; `name` says what has happened.
/// Costs one atomic load outside of tests.
pub fn crash_point(name: &'static str) {
    if let Some(watcher) = WATCHER.get() {
        watcher(name);
    }
}

/// Sets the function that every crash point calls, on the thread that passes it. Only the first call has an effect.
pub fn watch_crash_points(watcher: fn(&'static str)) {
    let _ = WATCHER.set(watcher);
}
