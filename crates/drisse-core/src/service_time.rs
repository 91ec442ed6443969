//! How long something takes, learned from how long it took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a piece of work takes on average, and how much later than reckoned its answer may be there.
/// Races between threads lose an update, not more.
#[derive(Debug, Default)]
pub struct ServiceTime {
    /// The average, in nanoseconds; 0 before the first.
    mean: AtomicU64,
    /// Answers come later than reckoned: work is longer than usual, or the machine has other things to do.
    surplus: AtomicU64,
}

/// One answer in so many may come later than reckoned with its surplus.
const FEW: u64 = 100;

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
        // A quantile of a stream: one step up for a value above it, a FEWth of a step down for one below, so
        // that it rests where one in FEW is above.
        let surplus = self.surplus.load(Relaxed);
        let step = (self.mean.load(Relaxed) / 4).max(surplus / 8);
        let next = match nanos(took.saturating_sub(reckoned)) > surplus {
            true => surplus.saturating_add(step),
            false => surplus.saturating_sub(step / FEW),
        };
        self.surplus.store(next, Relaxed);
    }

    /// What the work takes on average; zero before the first.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean.load(Relaxed))
    }

    /// By how much few answers are later than reckoned: one in 100.
    pub fn surplus(&self) -> Duration {
        Duration::from_nanos(self.surplus.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_follows_what_happens() {
        let time = ServiceTime::default();
        assert_eq!((time.mean(), time.surplus()), (Duration::ZERO, Duration::ZERO));
        (0..80).for_each(|_| time.learn(4 * MS));
        (0..80).for_each(|_| time.learn(8 * MS));
        assert!((time.mean().as_secs_f64() - 8e-3).abs() < 1e-4, "{time:?}");
    }

    #[test]
    fn few_answers_come_later_than_reckoned_with_the_surplus() {
        let time = ServiceTime::default();
        time.learn(8 * MS);
        // One in fifty is 20 ms late, the others up to 2.
        let took = |nth: u32| if nth.is_multiple_of(50) { 28 * MS } else { 8 * MS + MS * (nth % 3) };
        (0..5000).for_each(|nth| time.learn_surplus(8 * MS, took(nth)));
        let late = (0..5000)
            .filter(|&nth| {
                let late = took(nth) > 8 * MS + time.surplus();
                time.learn_surplus(8 * MS, took(nth));
                late
            })
            .count();
        assert!((1..=75).contains(&late), "{late} of 5000 were later than reckoned: {time:?}");
        // One that is far later than any other does not keep out those that come after it.
        let before = time.surplus();
        time.learn_surplus(8 * MS, 60_000 * MS);
        assert!(time.surplus() < before + 8 * MS, "{time:?}");
    }
}
