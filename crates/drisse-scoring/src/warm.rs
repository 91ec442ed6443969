//! The first runs of a model, before it is called ready.

use crate::batching::prove;
use crate::model::Model;
use crate::run::How;
use crate::trial::run_once;
use drisse_core::{Cancel, Inputs, Result};
use std::time::{Duration, Instant};

/// A model that needs longer than this for its sample is warm enough.
const LONGEST: Duration = Duration::from_secs(20);

/// Runs at most, to see the time of a warm one.
const RUNS: u32 = 5;

/// Scores `inputs` until it is fast or enough, so that memory is allocated and code is paged in, and
/// the server knows how long a run takes. Blocks; not for a thread that serves.
pub(crate) fn warm_up(model: &Model, inputs: &Inputs) -> Result<()> {
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
            model.learn(run.elapsed(), inputs, How::Queued(1));
            if started.elapsed() > Duration::from_millis(100) {
                break;
            }
        }
        if let Err(why) = prove(model, inputs, &cancel) {
            tracing::debug!(model = %model.name, "each request runs by itself: {why}");
        }
        Ok(())
    })
}
