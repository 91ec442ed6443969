//! Steps: the moments between which a process may die. Code names each moment it passes; tests stop or
//! kill it at exactly that one.

use std::sync::OnceLock;

static WATCHER: OnceLock<fn(&'static str)> = OnceLock::new();

/// Says that this moment is passed. Costs one load where nobody watches. To be called after what `name` says
/// has happened, wherever something that outlives the process has changed.
pub fn step(name: &'static str) {
    if let Some(watcher) = WATCHER.get() {
        watcher(name);
    }
}

/// From now on `watcher` is called at each step. The first one stays.
pub fn watch_steps(watcher: fn(&'static str)) {
    let _ = WATCHER.set(watcher);
}
