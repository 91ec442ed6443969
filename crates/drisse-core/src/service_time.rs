//! Estimates of service times, learned from measurements.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The mean time of a piece of work, and how much later than estimated its answer can arrive: the work can take longer
/// than usual, and the machine can be busy. Any thread may call any method; a race loses at most one measurement.
#[derive(Debug, Default)]
pub struct ServiceTime {
    /// The mean, in nanoseconds; 0 before the first measurement.
    mean: AtomicU64,
    /// The estimate error that one answer in 10 exceeds.
    often: EstimateError<10>,
    /// The estimate error that one answer in 100 exceeds.
    rarely: EstimateError<100>,
}

/// The estimate error, in nanoseconds, that one answer in `ONE_IN` exceeds.
#[derive(Debug, Default)]
struct EstimateError<const ONE_IN: u64>(AtomicU64);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl ServiceTime {
    /// Records the time of one piece of work.
    pub fn learn(&self, took: Duration) {
        let mean = self.mean.load(Relaxed);
        // An exponential moving average with weight 1/8: about the last twenty measurements count.
        let next = if mean == 0 { nanos(took) } else { mean - mean / 8 + nanos(took) / 8 };
        self.mean.store(next.max(1), Relaxed);
    }

    /// Records the error of an estimate: an answer took `took`, and `estimate` was the estimate of wait and work.
    pub fn learn_estimate_error(&self, estimate: Duration, took: Duration) {
        let late = nanos(took.saturating_sub(estimate));
        let least = self.mean.load(Relaxed) / 4;
        self.often.learn(late, least);
        self.rarely.learn(late, least);
    }

    /// Returns the mean time; zero before the first measurement.
    pub fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean.load(Relaxed))
    }

    /// Returns the time until the deadline that a request needs if its run starts after `wait`: the wait, the mean and
    /// the estimate error. Of the requests that wait, 99 of 100 are then answered in time. Without a wait 9 of 10 are
    /// enough, because no other request needs the worker.
    pub fn needed(&self, wait: Duration) -> Duration {
        let error = if wait.is_zero() { self.often.get() } else { self.rarely.get() };
        wait + self.mean() + error
    }
}

impl<const ONE_IN: u64> EstimateError<ONE_IN> {
    /// Tracks a quantile of a stream: up one step for a larger value, down `1 / ONE_IN` step for a smaller value, so
    /// that the quantile settles where one value in `ONE_IN` is larger.
    fn learn(&self, late: u64, least_step: u64) {
        let error = self.0.load(Relaxed);
        let step = least_step.max(error / 8);
        let next = match late > error {
            true => error.saturating_add(step),
            false => error.saturating_sub(step / ONE_IN),
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
    fn few_of_those_that_wait_and_one_in_ten_of_those_that_do_not_come_later_than_estimated() {
        let time = ServiceTime::default();
        time.learn(8 * MS);
        // One answer in fifty is 20 ms late, one in five 6 ms, and the others at most 2 ms.
        let took = |nth: u32| match nth {
            _ if nth.is_multiple_of(50) => 28 * MS,
            _ if nth.is_multiple_of(5) => 14 * MS,
            _ => 8 * MS + MS * (nth % 3),
        };
        let late = |wait: Duration| {
            let learned = |nth: &u32| {
                let late = wait + took(*nth) > time.needed(wait);
                time.learn_estimate_error(8 * MS, took(*nth));
                late
            };
            (0..5000).filter(learned).count()
        };
        late(MS);
        let (waited, free) = (late(MS), late(Duration::ZERO));
        assert!((1..=75).contains(&waited), "{waited} of 5000 were later than estimated: {time:?}");
        assert!((100..=600).contains(&free), "{free} of 5000 were later than estimated: {time:?}");
        // A single extreme error hardly changes the estimate.
        let before = time.needed(MS);
        time.learn_estimate_error(8 * MS, 60_000 * MS);
        assert!(time.needed(MS) < before + 8 * MS, "{time:?}");
    }
}
