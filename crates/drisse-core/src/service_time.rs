//! How long something takes, learned from how long it took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a piece of work takes on average, and how much later than reckoned its answer may be there: work is
/// longer than usual, or the machine has other things to do. Races between threads lose an update, not more.
#[derive(Debug, Default)]
pub struct ServiceTime {
    /// The average, in nanoseconds; 0 before the first.
    mean: AtomicU64,
    /// One answer in ten is later than reckoned by more than this.
    often: Surplus<10>,
    /// One answer in a hundred is.
    rarely: Surplus<100>,
}

/// By how much one answer in so many is later than reckoned, in nanoseconds.
#[derive(Debug, Default)]
struct Surplus<const ONE_IN: u64>(AtomicU64);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl ServiceTime {
    /// Learns from work that took this long.
    pub fn learn(&self, took: Duration) {
        let mean = self.mean.load(Relaxed);
        // 1/8 of the new: about the last twenty count.
        let next = if mean == 0 { nanos(took) } else { mean - mean / 8 + nanos(took) / 8 };
        self.mean.store(next.max(1), Relaxed);
    }

    /// Learns from an answer that was there after `took`, when `reckoned` was the wait and the work.
    pub fn learn_surplus(&self, reckoned: Duration, took: Duration) {
        let late = nanos(took.saturating_sub(reckoned));
        let least = self.mean.load(Relaxed) / 4;
        self.often.learn(late, least);
        self.rarely.learn(late, least);
    }

    /// What the work takes on average; zero before the first.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean.load(Relaxed))
    }

    /// The time that a request whose turn comes after `wait` should have left: the wait, the work, and by how much
    /// answers are late. Who waits is answered in time but for one in a hundred. Where a turn is free there is
    /// nothing better to do with it: nine chances in ten are enough.
    pub fn needed(&self, wait: Duration) -> Duration {
        let surplus = if wait.is_zero() { self.often.get() } else { self.rarely.get() };
        wait + self.mean() + surplus
    }
}

impl<const ONE_IN: u64> Surplus<ONE_IN> {
    /// A quantile of a stream: one step up for a value above it, that part of a step down for one below, so that it
    /// rests where one in so many is above.
    fn learn(&self, late: u64, least_step: u64) {
        let surplus = self.0.load(Relaxed);
        let step = least_step.max(surplus / 8);
        let next = match late > surplus {
            true => surplus.saturating_add(step),
            false => surplus.saturating_sub(step / ONE_IN),
        };
        self.0.store(next, Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_follows_what_happens() {
        let time = ServiceTime::default();
        assert_eq!((time.mean(), time.needed(MS)), (Duration::ZERO, MS));
        (0..80).for_each(|_| time.learn(4 * MS));
        (0..80).for_each(|_| time.learn(8 * MS));
        assert!((time.mean().as_secs_f64() - 8e-3).abs() < 1e-4, "{time:?}");
    }

    #[test]
    fn few_of_those_that_wait_and_one_in_ten_of_those_that_do_not_come_later_than_reckoned() {
        let time = ServiceTime::default();
        time.learn(8 * MS);
        // One in fifty is 20 ms late, one in five 6, the others up to 2.
        let took = |nth: u32| match nth {
            _ if nth.is_multiple_of(50) => 28 * MS,
            _ if nth.is_multiple_of(5) => 14 * MS,
            _ => 8 * MS + MS * (nth % 3),
        };
        let late = |wait: Duration| {
            let learned = |nth: &u32| {
                let late = wait + took(*nth) > time.needed(wait);
                time.learn_surplus(8 * MS, took(*nth));
                late
            };
            (0..5000).filter(learned).count()
        };
        late(MS);
        let (waited, free) = (late(MS), late(Duration::ZERO));
        assert!((1..=75).contains(&waited), "{waited} of 5000 were later than reckoned: {time:?}");
        assert!((100..=600).contains(&free), "{free} of 5000 were later than reckoned: {time:?}");
        // One that is far later than any other does not keep out those that come after it.
        let before = time.needed(MS);
        time.learn_surplus(8 * MS, 60_000 * MS);
        assert!(time.needed(MS) < before + 8 * MS, "{time:?}");
    }
}
