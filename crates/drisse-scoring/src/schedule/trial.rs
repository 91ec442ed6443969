//! Timed runs of a model alone: their latency and their rate.

use drisse_core::{Cancel, Inputs, Result, Scorer, Sink, Value, ValueView, Work};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, Instant};

/// The largest number of runs of each worker in a trial.
const MOST_RUNS: usize = 100_000;

/// The results of a trial.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Trial {
    /// Runs per second, of all workers together.
    pub rate: f64,
    /// The median time of a run.
    pub p50: Duration,
    /// The time of a run that 1 run in 100 exceeds.
    pub p99: Duration,
    /// The processor time of a run.
    pub cpu: Duration,
}

/// Discards outputs.
struct Discard;

impl Sink for Discard {
    fn output(&mut self, _: usize, _: ValueView<'_>) -> Result<()> {
        Ok(())
    }
}

/// Runs a scorer once and discards all its outputs. `outputs`: their number.
pub(crate) fn run_once(scorer: &dyn Scorer, inputs: &Inputs, outputs: usize, cancel: &Cancel) -> Result<()> {
    let outputs: Vec<_> = (0..outputs).collect();
    scorer.score(Work { inputs, outputs: &outputs }, cancel, &mut Discard)
}

/// All outputs of a run.
pub(crate) struct Outputs(pub(crate) Vec<Value>);

impl Outputs {
    /// Runs a scorer once. `outputs`: their number.
    pub(crate) fn of(scorer: &dyn Scorer, inputs: &Inputs, outputs: usize, cancel: &Cancel) -> Result<Self> {
        let outputs: Vec<_> = (0..outputs).collect();
        let mut all = Self(Vec::new());
        scorer.score(Work { inputs, outputs: &outputs }, cancel, &mut all)?;
        Ok(all)
    }
}

impl Sink for Outputs {
    fn output(&mut self, _: usize, value: ValueView<'_>) -> Result<()> {
        self.0.push(Value::copy_of(value));
        Ok(())
    }
}

impl Trial {
    /// Runs `scorer`, which has this number of `outputs`, on `workers` threads for `time`, at least three times on each.
    ///
    /// # Errors
    /// Returns the error of the first run that fails, and an internal error if the model panics.
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
        let quantile = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize];
        let runs = times.len();
        Ok(Self {
            rate: runs as f64 / took.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            cpu: cpu / u32::try_from(runs).unwrap_or(u32::MAX),
        })
    }
}

/// Returns the processor time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
