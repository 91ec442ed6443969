//! Waiting for conditions that nothing announces. The only place in tests that pauses.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Longer than any step takes on a busy machine, so that a hang fails the test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The first pause between two checks; each is twice as long as the one before, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(1);

/// The longest pause between two checks. Many checks start a process: without pauses they take the processor from what
/// they wait for.
const LONGEST: Duration = Duration::from_millis(20);

/// Checks a condition until it holds, and returns how long that took. Panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn wait(what: impl Display, mut condition: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    found(|| format!("{what} does not happen"), || condition().then_some(()));
    began.elapsed()
}

/// Calls `find` until it returns a value. Panics after [`PATIENCE`] with the message of `failure`.
#[track_caller]
pub fn found<T>(failure: impl Fn() -> String, mut find: impl FnMut() -> Option<T>) -> T {
    let (began, mut pause) = (Instant::now(), FIRST);
    loop {
        if let Some(value) = find() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "{}", failure());
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}

/// Pauses until the given time: for tests that do something at a given rate or for a given time, not to wait for anything.
pub fn pause_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_checked_until_it_holds() {
        let mut checks = 0;
        wait("three checks", || {
            checks += 1;
            checks == 3
        });
        assert_eq!(checks, 3);
        assert_eq!(found(String::new, || Some(7)), 7);
    }
}
