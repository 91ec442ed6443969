//! The number of rows per run, learned from the measured cost of runs.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The number of size classes, powers of two: up to 1, 2, 4 … 256 rows.
const SIZES: usize = 9;

/// A larger size class is better only if a row costs less than this fraction: batching itself has a cost, and
/// measurements are noisy.
const WORTH: f32 = 0.95;

/// Once in so many runs the next larger size class is tried although it was not better: load and clock rates change.
const TRIED_EVERY: u64 = 64;

/// The cost of one model's runs, by the number of their rows. Costs are per byte of input, so that requests of
/// different shapes are comparable. Any thread may call any method; a race loses at most one measurement.
#[derive(Debug, Default)]
pub(crate) struct BatchSize {
    /// Seconds per byte of input for each size class, as the bits of an `f32`; 0: not measured.
    cost: [AtomicU32; SIZES],
    /// The index of the best size class.
    best: AtomicU32,
    runs: AtomicU64,
}

impl BatchSize {
    /// The largest number of rows per run.
    pub(crate) const MOST: usize = 1 << (SIZES - 1);

    /// Records a run of `rows` rows with `bytes` of input.
    pub(crate) fn learn(&self, rows: usize, bytes: usize, took: Duration) {
        let cost = &self.cost[size_class(rows)];
        let (before, now) = (f32::from_bits(cost.load(Relaxed)), took.as_secs_f32() / bytes.max(1) as f32);
        let mean = if before == 0.0 { now } else { before + (now - before) / 8.0 };
        cost.store(mean.max(f32::MIN_POSITIVE).to_bits(), Relaxed);
        self.best.store(self.cheapest(), Relaxed);
    }

    /// Returns the largest number of rows for the next run: the best size, or sometimes the next larger one as a trial.
    pub(crate) fn rows(&self) -> usize {
        let best = self.best.load(Relaxed) as usize;
        let larger = (best + 1).min(SIZES - 1);
        let unknown = self.cost[larger].load(Relaxed) == 0;
        let trial = self.runs.fetch_add(1, Relaxed) % TRIED_EVERY == TRIED_EVERY - 1;
        1 << if unknown || trial { larger } else { best }
    }

    /// Returns the number of rows at which a row costs least.
    pub(crate) fn best(&self) -> usize {
        1 << self.best.load(Relaxed)
    }

    /// Estimates the time of a run of `rows` rows with `bytes` of input; `None` before the first measurement.
    pub(crate) fn time(&self, rows: usize, bytes: usize) -> Option<Duration> {
        let known = |class: &usize| f32::from_bits(self.cost[*class].load(Relaxed)) > 0.0;
        let wanted = size_class(rows);
        let class = (0..=wanted).rev().find(known).or_else(|| (wanted..SIZES).find(known))?;
        let seconds = f32::from_bits(self.cost[class].load(Relaxed)) * bytes as f32;
        Duration::try_from_secs_f32(seconds).ok()
    }

    /// Returns the size class with the cheapest row; a larger class must be cheaper by [`WORTH`].
    fn cheapest(&self) -> u32 {
        let cost = |class: usize| f32::from_bits(self.cost[class].load(Relaxed));
        let mut known = (0..SIZES).filter(|&class| cost(class) > 0.0);
        let smallest = known.next().unwrap_or(0);
        let better = |best, class| if cost(class) < WORTH * cost(best) { class } else { best };
        known.fold(smallest, better) as u32
    }
}

/// Returns the index of the smallest size class that holds `rows`.
fn size_class(rows: usize) -> usize {
    (rows.clamp(1, BatchSize::MOST).next_power_of_two().trailing_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    fn learned(time: impl Fn(usize) -> Duration, sizes: &[usize]) -> BatchSize {
        let size = BatchSize::default();
        sizes.iter().for_each(|&rows| size.learn(rows, 100 * rows, time(rows)));
        size
    }

    #[test]
    fn rows_are_put_together_as_far_as_each_gets_cheaper() {
        // A device: every run costs the same, whatever its size.
        let device = learned(|_| 5000 * US, &[1, 2, 4, 8, 16]);
        assert_eq!(device.best(), 16);
        // A processor: each row has a cost, and beyond eight rows the cache is too small.
        let processor = learned(
            |rows| US * (20 + 100 * rows as u32 + 30 * rows.saturating_sub(8) as u32),
            &[1, 2, 4, 8, 16],
        );
        assert!((2..=8).contains(&processor.best()), "{processor:?}");
    }

    #[test]
    fn rows_that_get_no_cheaper_stay_alone() {
        assert_eq!(learned(|rows| 100 * US * rows as u32, &[1, 2, 4, 8]).best(), 1);
        assert_eq!(learned(|rows| 98 * US * rows as u32, &[1]).best(), 1);
    }

    #[test]
    fn what_was_never_run_alone_is_judged_by_what_was() {
        assert_eq!(learned(|_| 5000 * US, &[2, 4, 8]).best(), 8);
    }

    #[test]
    fn the_next_size_is_tried_when_nothing_is_known_of_it_and_then_once_in_a_while() {
        let size = learned(|rows| 100 * US * rows as u32, &[1]);
        assert_eq!((size.rows(), size.best()), (2, 1));
        size.learn(2, 200, 200 * US);
        size.runs.store(0, Relaxed);
        let tried: Vec<_> = (0..2 * TRIED_EVERY).map(|_| size.rows()).collect();
        assert_eq!(tried.iter().filter(|&&rows| rows == 2).count(), 2);
        // A better trial changes the size, and worse measurements change it back.
        (0..20).for_each(|_| size.learn(2, 200, 60 * US));
        assert_eq!(size.best(), 2);
        (0..40).for_each(|_| size.learn(2, 200, 300 * US));
        assert_eq!(size.best(), 1);
    }

    #[test]
    fn times_are_estimated_by_bytes_from_the_nearest_known_size() {
        let size = learned(|rows| 10 * US * rows as u32, &[1, 4]);
        let close =
            |time: Option<Duration>, us: f64| (time.unwrap().as_secs_f64() * 1e6 / us - 1.0).abs() < 0.01;
        assert!(close(size.time(1, 100), 10.0) && close(size.time(16, 1600), 160.0), "{size:?}");
        assert!(close(size.time(1, 300), 30.0), "three times as long a text: {size:?}");
        assert_eq!(BatchSize::default().time(1, 1), None);
    }
}
