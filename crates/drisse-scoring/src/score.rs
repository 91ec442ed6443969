//! The one scoring function that every protocol calls: check the inputs, admit, run, and return the sink.

use crate::app::App;
use crate::schedule::{Mode, QueuedRequest, ResponseSink, Run, Runner};
use drisse_core::{Cancel, Error, ErrorKind, Inputs, Result, Sink};
use drisse_net::trace::Stages;
use futures_util::future::Either;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A decoded request.
pub(crate) struct Request<S> {
    pub(crate) inputs: Inputs,
    pub(crate) outputs: Vec<usize>,
    pub(crate) deadline: Instant,
    /// Where the times of the request's parts are noted, if it is traced.
    pub(crate) stages: Option<Arc<Stages>>,
    /// Encodes the outputs while they are in the engine's memory.
    pub(crate) sink: S,
}

/// Returns the deadline, or the end of the request's own timeout from now on if that is sooner.
pub(crate) fn sooner(deadline: Instant, timeout: Option<Duration>) -> Instant {
    let ends = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    ends.map_or(deadline, |ends| ends.min(deadline))
}

/// Scores `request` with `model`. Dropping the future cancels the run.
///
/// A request that runs on this thread is scored before this function returns. Only one that waits for another thread
/// needs a future of its own, which is boxed, so that the futures of all requests stay small: they are moved often.
pub(crate) fn score<'a, S>(
    app: &'a App,
    model: &'a Arc<Runner>,
    request: Request<S>,
) -> impl Future<Output = Result<S>> + Send + use<'a, S>
where
    S: Sink + Send + 'static,
{
    let scored = match request.inputs.check(&model.signature) {
        Err(error) => Err(error),
        Ok(()) if request.deadline <= Instant::now() => Err(late(model, "the request was read")),
        Ok(()) if model.runs_inline(request.inputs.byte_len()) => {
            let Request { inputs, outputs, stages, mut sink, .. } = request;
            let (cancel, noted) = (&Cancel::never(), stages.as_slice());
            let run = Run { model, inputs: &inputs, outputs: &outputs, cancel, mode: Mode::Inline, noted };
            run.into_sink(&mut sink).map(|()| sink)
        }
        Ok(()) => return Either::Right(Box::pin(score_on_worker(app, model, request))),
    };
    Either::Left(ready(scored))
}

/// Scores `request` on a worker's thread.
async fn score_on_worker<S>(app: &App, model: &Arc<Runner>, request: Request<S>) -> Result<S>
where
    S: Sink + Send + 'static,
{
    let Request { inputs, outputs, deadline, stages, sink } = request;
    let bytes = inputs.byte_len();
    let mean = model.service_time().mean();
    let wait = admit(app, model, deadline)?;
    let estimate = wait.unwrap_or_default() + mean;
    let cancel = Cancel::new();
    let (sender, answered) = oneshot::channel();
    let queued_at = Instant::now();
    let started = Arc::new(AtomicBool::new(false));
    let queued = QueuedRequest {
        model: Arc::clone(model),
        batch: model.batching.of(&inputs, bytes),
        inputs,
        outputs,
        queued_at,
        deadline,
        cancel: cancel.clone(),
        started: Arc::clone(&started),
        stages,
        response: Box::new(ResponseSink { sink, sender }),
    };
    // A request whose turn comes too late to end in time is dropped: its run would only delay other requests. If no
    // other request waits, it is tried.
    let start_by = wait.and_then(|_| deadline.checked_sub(mean)).unwrap_or(deadline);
    let ticket = app.models.workers.push(&model.queue, app.config.max_queue, start_by, &cancel, queued);
    let Some(_ticket) = ticket else { return Err(overloaded(model, app.config.max_queue, Duration::ZERO)) };
    let _pending = model.metrics.begin_pending();
    let result = answer_in_time(app, model, queued_at, deadline, &started, answered).await;
    // A request that did not start would also have needed the time of its run.
    let missing = if started.load(SeqCst) { Duration::ZERO } else { mean };
    model.service_time().learn_estimate_error(estimate, queued_at.elapsed() + missing);
    result
}

/// Waits for the result from a worker, at most until the deadline, or as long as a request may wait if the run
/// has not begun by then.
async fn answer_in_time<S>(
    app: &App,
    model: &Runner,
    queued_at: Instant,
    deadline: Instant,
    started: &AtomicBool,
    mut answered: oneshot::Receiver<Result<S>>,
) -> Result<S> {
    let refused = || overloaded(model, app.models.workers.waiting(&model.queue), queued_at.elapsed());
    let late = || late(model, "the answer was there");
    loop {
        // Admission only estimates: if runs take longer than usual, the requests behind them still wait no longer. A run
        // that has begun has until the deadline.
        let (mut until, mut look) = (deadline, deadline);
        if !started.load(SeqCst) {
            until = app.config.max_wait.until(queued_at, model.service_time().mean(), deadline);
            look = app.config.max_wait.look_again(until);
        }
        match tokio::time::timeout_at(look.into(), &mut answered).await {
            Ok(Ok(result)) => return result,
            // A worker has dropped the request, because its turn came too late.
            Ok(Err(_)) if Instant::now() < deadline => return Err(refused()),
            Ok(Err(_)) => return Err(late()),
            Err(_) if look >= deadline => return Err(late()),
            Err(_) if look >= until && !started.load(SeqCst) => return Err(refused()),
            Err(_) => {}
        }
    }
}

/// Admission control. Returns the estimated wait, or `None` if no request waits or runs: such a request is always
/// admitted, so that the estimates can recover.
///
/// # Errors
/// [`Overloaded`](ErrorKind::Overloaded) if the estimated wait exceeds `max_wait`, or if the request is unlikely to be
/// answered before the deadline.
pub(crate) fn admit(app: &App, model: &Runner, deadline: Instant) -> Result<Option<Duration>> {
    let (time, mean) = (model.service_time(), model.service_time().mean());
    let Some(wait) = app.models.workers.wait(&model.queue, mean, model.amortized()) else {
        return Ok(None);
    };
    if wait > app.config.max_wait.of(mean) {
        return Err(overloaded(model, app.models.workers.waiting(&model.queue), wait));
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

fn overloaded(model: &Runner, queued: usize, wait: Duration) -> Error {
    let requests = if queued == 1 { "request waits" } else { "requests wait" };
    refused(model, &format!("{queued} {requests}, about {} ms", wait.as_millis()), wait)
}

fn refused(model: &Runner, why: &str, wait: Duration) -> Error {
    let name = &model.name;
    model.metrics.rejected.inc();
    let message = format!("model `{name}` is overloaded: {why}; send fewer at once, or add replicas");
    Error::new(ErrorKind::Overloaded, message).retry_after(wait)
}

fn late(model: &Runner, before: &str) -> Error {
    let message = format!("the deadline passed before {before} (model `{}`)", model.name);
    Error::new(ErrorKind::DeadlineExceeded, message)
}
