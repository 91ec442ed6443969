//! Runs of a model by itself, timed: how fast one is, and how many there are a second.

use drisse_core::{Cancel, Inputs, Result, Scorer, Sink, ValueView, Work};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// A trial ends after so many runs of each worker, whatever its time.
const MOST_RUNS: usize = 100_000;

/// What a trial showed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Trial {
    /// Runs a second, of all workers together.
    pub rate: f64,
    /// How long half of the runs took at most.
    pub p50: Duration,
    /// How long 99 of 100 runs took at most.
    pub p99: Duration,
    /// Processor time a run.
    pub cpu: Duration,
}

struct Nowhere;

impl Sink for Nowhere {
    fn output(&mut self, _: usize, _: ValueView<'_>) -> Result<()> {
        Ok(())
    }
}

/// A run whose outputs go nowhere, of a scorer that has so many.
pub(crate) fn run_once(scorer: &dyn Scorer, inputs: &Inputs, outputs: usize, cancel: &Cancel) -> Result<()> {
    let outputs: Vec<_> = (0..outputs).collect();
    scorer.score(Work { inputs, outputs: &outputs }, cancel, &mut Nowhere)
}

impl Trial {
    /// Runs `scorer`, which has so many `outputs`, on `workers` threads at once for `time`, each at least three times.
    pub fn of(
        scorer: &dyn Scorer,
        inputs: &Inputs,
        outputs: usize,
        workers: usize,
        time: Duration,
    ) -> Result<Self> {
        let (began, cpu) = (Instant::now(), cpu_time());
        let worker = || -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            while times.len() < 3 || (began.elapsed() < time && times.len() < MOST_RUNS) {
                let started = Instant::now();
                run_once(scorer, inputs, outputs, &Cancel::never())?;
                times.push(started.elapsed());
            }
            Ok(times)
        };
        let times: Result<Vec<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers.max(1)).map(|_| scope.spawn(worker)).collect();
            let died = |_| Err(drisse_core::Error::internal("the model panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
        });
        let mut times = times?.concat();
        let (took, cpu) = (began.elapsed(), cpu_time().saturating_sub(cpu));
        times.sort();
        let quantile = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        let runs = times.len();
        Ok(Self {
            rate: runs as f64 / took.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            cpu: cpu / u32::try_from(runs).unwrap_or(u32::MAX),
        })
    }
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
