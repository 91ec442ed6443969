//! Latency against throughput, over the ways to run a model on this machine.

use super::batch_size::BatchSize;
use super::batching::rows_are_independent;
use super::trial::Trial;
use super::tune::{Tuner, Tuning};
use crate::memory::resident;
use drisse_core::{Cancel, Engine, EngineOptions, Inputs, LoadedPackage, Result};
use std::time::Duration;

/// The largest inputs of one run, in bytes.
const MAX_BYTES: usize = 256 << 20;

/// Larger batches are not tried after this many sizes in a row did not increase the rate.
const NO_BETTER: usize = 2;

/// A latency that does not matter beside the network's.
const NEGLIGIBLE: Duration = Duration::from_millis(1);

/// One way to run a model, and its measurements.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    /// Threads per run, and concurrent runs.
    pub tuning: Tuning,
    /// Rows per run.
    pub batch: usize,
    /// The measurements of the runs.
    pub trial: Trial,
    /// The resident memory of the process after the trial, in bytes.
    pub memory: u64,
}

impl Point {
    /// Returns the number of rows per second.
    pub fn rate(&self) -> f64 {
        self.trial.rate * self.batch as f64
    }
}

/// All ways that were tried.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// In the order tried.
    pub points: Vec<Point>,
    /// Why requests do not share runs; `None` if they do.
    pub no_batches: Option<&'static str>,
}

impl Profile {
    /// Returns the way with the most rows per second whose [`Trial::p99`] is at most `goal`. Without a goal the limit is
    /// twice the smallest, but at least a millisecond. `None` if no way is that fast.
    pub fn recommended(&self, goal: Option<Duration>) -> Option<&Point> {
        let fastest = self.points.iter().map(|point| point.trial.p99).min()?;
        let goal = goal.unwrap_or(NEGLIGIBLE.max(2 * fastest));
        let within = self.points.iter().filter(|point| point.trial.p99 <= goal);
        within.max_by(|one, other| one.rate().total_cmp(&other.rate()))
    }
}

/// What to profile, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Profiling<'a> {
    /// The engine of the model.
    pub engine: &'a dyn Engine,
    /// The model.
    pub model: &'a LoadedPackage,
    /// The inputs of the runs.
    pub sample: &'a Inputs,
    /// The choices to try.
    pub tuner: &'a Tuner,
    /// The time for each trial.
    pub time: Duration,
}

/// Tries the ways to run a model, and passes each result to `report` as soon as it is known.
///
/// # Errors
/// Returns the engine's error if the model cannot be loaded or fails on the sample.
pub fn profile(what: Profiling<'_>, report: &mut dyn FnMut(&Point)) -> Result<Profile> {
    let Profiling { engine, model, sample, tuner, time } = what;
    let mut profile = Profile { points: Vec::new(), no_batches: None };
    for choice in tuner.choices() {
        let scorer =
            engine.load(model, &EngineOptions { threads: Some(choice.threads), ..tuner.options.clone() })?;
        let independent = rows_are_independent(&*scorer, &model.signature, sample, &Cancel::never());
        profile.no_batches = independent.err();
        let alone = (choice.workers > 1).then_some(Tuning { workers: 1, ..choice });
        for tuning in alone.into_iter().chain([choice]) {
            let (mut best, mut no_better, mut copies) = (0.0, 0, 1);
            while no_better < NO_BETTER && copies * sample.byte_len() <= MAX_BYTES {
                let joined = Inputs::joined(&vec![sample; copies]);
                let outputs = model.signature.outputs.len();
                let trial = Trial::of(&*scorer, &joined, outputs, tuning.workers, time)?;
                let batch = joined.rows().unwrap_or(1);
                let point = Point { tuning, batch, trial, memory: resident() };
                report(&point);
                profile.points.push(point);
                no_better = if point.rate() > 1.02 * best { 0 } else { no_better + 1 };
                best = point.rate().max(best);
                copies *= 2;
                if profile.no_batches.is_some() || copies > BatchSize::MOST {
                    break;
                }
            }
        }
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(workers: usize, batch: usize, rate: f64, ms: u64) -> Point {
        let p99 = Duration::from_millis(ms);
        let trial = Trial { rate, p50: p99, p99, cpu: p99 };
        Point { tuning: Tuning { threads: 1, workers }, batch, trial, memory: 0 }
    }

    #[test]
    fn most_rows_within_the_goal_are_recommended() {
        let points = vec![point(1, 1, 100.0, 10), point(2, 1, 190.0, 12), point(2, 8, 40.0, 60)];
        let profile = Profile { points, no_batches: None };
        let recommended = |goal: Option<u64>| {
            profile
                .recommended(goal.map(Duration::from_millis))
                .map(|point| (point.tuning.workers, point.batch))
        };
        assert_eq!(recommended(Some(100)), Some((2, 8)));
        assert_eq!(recommended(Some(20)), Some((2, 1)));
        assert_eq!(recommended(Some(11)), Some((1, 1)));
        assert_eq!(recommended(Some(5)), None);
        assert_eq!(recommended(None), Some((2, 1)));
    }
}
