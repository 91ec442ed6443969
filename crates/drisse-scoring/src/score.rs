//! The one scoring function every protocol calls: check, admit, run, and hand back the sink.

use crate::app::App;
use crate::model::Model;
use crate::run::{How, Piece, Run, Waiting};
use drisse_core::{Cancel, Error, ErrorKind, Inputs, Result, Sink};
use drisse_net::trace::Stages;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A decoded request.
pub(crate) struct Request<S> {
    pub(crate) inputs: Inputs,
    pub(crate) outputs: Vec<usize>,
    pub(crate) deadline: Instant,
    /// Where the parts of its time are noted, where it is traced.
    pub(crate) stages: Option<Arc<Stages>>,
    /// Encodes outputs while they are in the engine's memory.
    pub(crate) sink: S,
}

/// The deadline, or the end of the time that the request itself has for it from now on.
pub(crate) fn sooner(deadline: Instant, timeout: Option<Duration>) -> Instant {
    let ends = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    ends.map_or(deadline, |ends| ends.min(deadline))
}

/// Scores `request` with `model`. Dropping the future ends the work.
pub(crate) async fn score<S>(app: &App, model: &Arc<Model>, request: Request<S>) -> Result<S>
where
    S: Sink + Send + 'static,
{
    request.inputs.check(&model.signature)?;
    if request.deadline <= Instant::now() {
        return Err(late(model, "the request was read"));
    }
    let Request { inputs, outputs, deadline, stages, mut sink } = request;
    let bytes = inputs.byte_len();
    if model.runs_inline(bytes) {
        let (cancel, noted) = (&Cancel::never(), stages.as_slice());
        let run = Run { model, inputs: &inputs, outputs: &outputs, cancel, how: How::Inline, noted };
        return run.into_sink(&mut sink).map(|()| sink);
    }
    let mean = model.service_time().mean();
    let wait = admit(app, model, deadline)?;
    let reckoned = wait.unwrap_or_default() + mean;
    let cancel = Cancel::new();
    let (answer, answered) = oneshot::channel();
    let queued_at = Instant::now();
    let started = Arc::new(AtomicBool::new(false));
    let piece = Piece {
        model: Arc::clone(model),
        batch: model.batching.of(&inputs, bytes),
        inputs,
        outputs,
        queued_at,
        deadline,
        cancel: cancel.clone(),
        started: Arc::clone(&started),
        stages,
        waiting: Box::new(Waiting { sink, answer }),
    };
    // One whose turn comes too late to end in time is dropped: its run would only keep others waiting. Where there are
    // none it is tried.
    let start_by = wait.and_then(|_| deadline.checked_sub(mean)).unwrap_or(deadline);
    let ticket = app.workers.push(&model.lane, app.config.max_queue, start_by, &cancel, piece);
    let Some(_ticket) = ticket else { return Err(overloaded(model, app.config.max_queue, Duration::ZERO)) };
    let _waiting = model.metrics.waiting();
    let result = answer_in_time(app, model, queued_at, deadline, &started, answered).await;
    // One that never had its turn would have needed its run yet.
    let missing = if started.load(SeqCst) { Duration::ZERO } else { mean };
    model.service_time().learn_surplus(reckoned, queued_at.elapsed() + missing);
    result
}

/// Waits for a worker's answer, for as long as that makes sense.
async fn answer_in_time<S>(
    app: &App,
    model: &Model,
    queued_at: Instant,
    deadline: Instant,
    started: &AtomicBool,
    mut answered: oneshot::Receiver<Result<S>>,
) -> Result<S> {
    // Admission estimates; runs that are longer than usual must not make those behind them wait for ever.
    let patience = queued_at + app.config.max_wait;
    if patience < deadline {
        match tokio::time::timeout_at(patience.into(), &mut answered).await {
            Ok(Ok(result)) => return result,
            Err(_) if !started.load(SeqCst) => {
                return Err(overloaded(model, app.workers.waiting(&model.lane), app.config.max_wait));
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
    match tokio::time::timeout_at(deadline.into(), answered).await {
        Ok(Ok(result)) => result,
        // Dropped by a worker, as its turn came too late.
        Ok(Err(_)) if Instant::now() < deadline => {
            Err(overloaded(model, app.workers.waiting(&model.lane), queued_at.elapsed()))
        }
        Ok(Err(_)) | Err(_) => Err(late(model, "the answer was there")),
    }
}

/// Refuses at once what would wait for too long, or would likely not be answered in time. How long it will wait
/// for its turn; nothing where nothing else is under way: that is tried whatever was learned, so it is learned anew.
pub(crate) fn admit(app: &App, model: &Model, deadline: Instant) -> Result<Option<Duration>> {
    let time = model.service_time();
    let Some(wait) = app.workers.wait(&model.lane, time.mean(), model.share()) else {
        return Ok(None);
    };
    if wait > app.config.max_wait {
        return Err(overloaded(model, app.workers.waiting(&model.lane), wait));
    }
    let (needed, left) = (time.needed(wait), deadline.saturating_duration_since(Instant::now()));
    if needed > left {
        let (needed, left) = (needed.as_millis(), left.as_millis());
        let why = format!(
            "it needs about {needed} ms to answer, and the deadline is in {left} ms; allow more time"
        );
        return Err(refused(model, &why, wait));
    }
    Ok(Some(wait))
}

fn overloaded(model: &Model, queued: usize, wait: Duration) -> Error {
    let requests = if queued == 1 { "request waits" } else { "requests wait" };
    refused(model, &format!("{queued} {requests}, about {} ms", wait.as_millis()), wait)
}

fn refused(model: &Model, why: &str, wait: Duration) -> Error {
    let name = &model.name;
    model.metrics.rejected.inc();
    let message = format!("model `{name}` is overloaded: {why}; send fewer at once, or add replicas");
    Error::new(ErrorKind::Overloaded, message).retry_after(wait)
}

fn late(model: &Model, before: &str) -> Error {
    let message = format!("the deadline passed before {before} (model `{}`)", model.name);
    Error::new(ErrorKind::DeadlineExceeded, message)
}
