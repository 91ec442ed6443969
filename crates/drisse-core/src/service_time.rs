//! How long something takes, learned from how long it took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long a piece of work takes on average, and how much later than reckoned its answer may be there.
/// Races between threads lose an update, not more.
#[derive(Debug, Default)]
pub struct ServiceTime {
    work: Average,
    /// Answers come later than reckoned: work is longer than usual, or the machine has other things to do.
    surplus: Average,
}

/// An average that forgets, and how far from it single values are; in nanoseconds, 0 before the first.
#[derive(Debug, Default)]
struct Average {
    mean: AtomicU64,
    deviation: AtomicU64,
}

impl Average {
    fn learn(&self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX).max(1);
        let (mean, deviation) = (self.mean.load(Relaxed), self.deviation.load(Relaxed));
        if mean == 0 {
            self.mean.store(nanos, Relaxed);
            return;
        }
        // 1/8 of the new: about the last twenty count.
        self.deviation.store(deviation - deviation / 8 + mean.abs_diff(nanos) / 8, Relaxed);
        self.mean.store((mean - mean / 8 + nanos / 8).max(1), Relaxed);
    }
}

impl ServiceTime {
    /// Learns from work that took this long.
    pub fn learn(&self, took: Duration) {
        self.work.learn(took);
    }

    /// Learns from an answer that was there after `took`, when `reckoned` was the wait and the work.
    pub fn learn_surplus(&self, reckoned: Duration, took: Duration) {
        self.surplus.learn(took.saturating_sub(reckoned));
    }

    /// What the work takes on average; zero before the first.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.work.mean.load(Relaxed))
    }

    /// By how much few answers are later than reckoned: the average and four deviations, as TCP reckons (RFC
    /// 6298, section 2.3).
    pub fn surplus(&self) -> Duration {
        let Average { mean, deviation } = &self.surplus;
        Duration::from_nanos(mean.load(Relaxed) + 4 * deviation.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_happens_and_knows_how_much_later_answers_come() {
        let time = ServiceTime::default();
        assert_eq!((time.mean(), time.surplus()), (Duration::ZERO, Duration::ZERO));
        let ms = Duration::from_millis;
        for _ in 0..80 {
            time.learn(ms(8));
            time.learn_surplus(ms(8), ms(9));
        }
        let near = |is: Duration, wanted: f64| (is.as_secs_f64() * 1e3 - wanted).abs() < 0.1;
        assert!(near(time.mean(), 8.0) && near(time.surplus(), 1.0), "{time:?}");
        (0..80).for_each(|nth| time.learn_surplus(ms(8), ms(if nth % 2 == 0 { 8 } else { 12 })));
        assert!(time.surplus() > ms(4), "few are later than this: {:?}", time.surplus());
    }
}
