//! The first runs of a model, before it is ready.

use super::batching::prove;
use super::row_probe::probe_rows;
use super::run::Mode;
use super::runner::Runner;
use super::trial::run_once;
use drisse_core::{Cancel, Inputs, Result};
use std::time::{Duration, Instant};

/// A run of the sample that takes longer is canceled.
const LONGEST: Duration = Duration::from_secs(20);

/// The largest number of runs: enough to measure a warm one.
const RUNS: u32 = 5;

/// Scores `inputs` several times, so that memory is allocated, code is paged in and the time of a run is known. Then
/// tests whether requests may share runs. Blocks, so it must not be called on a thread that serves connections.
///
/// # Errors
/// Returns the error of the run that failed.
pub(crate) fn warm_up(model: &Runner, inputs: &Inputs) -> Result<()> {
    inputs.check(&model.signature)?;
    let cancel = Cancel::new();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let watched = &cancel;
        scope.spawn(move || {
            if wait.recv_timeout(LONGEST) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                watched.cancel();
            }
        });
        let _done = done;
        let started = Instant::now();
        for _ in 0..RUNS {
            let run = Instant::now();
            run_once(&*model.scorer, inputs, model.signature.outputs.len(), &cancel)?;
            model.learn(run.elapsed(), inputs, Mode::Queued(1));
            if started.elapsed() > Duration::from_millis(100) {
                break;
            }
        }
        probe_rows(model, inputs, &cancel);
        if let Err(why) = prove(model, inputs, &cancel) {
            tracing::debug!(model = %model.name, "each request runs by itself: {why}");
        }
        Ok(())
    })
}
