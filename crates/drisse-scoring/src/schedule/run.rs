//! What happens on the thread that runs a model: the run of one request, or one run that several requests share.

use super::batching::{BatchShare, wrong_rows};
use super::runner::Runner;
use super::workers::Job;
use drisse_core::{Cancel, Error, ErrorKind, Inputs, OnCancel, Result, Sink, ValueView, Work};
use drisse_net::trace::Stages;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;
use tokio::sync::oneshot;

/// Where a run happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// On the connection's own thread.
    Inline,
    /// On a worker thread, for this many requests.
    Queued(usize),
}

impl Mode {
    /// Returns the number of requests that share a run on a worker thread.
    fn queued(self) -> Option<usize> {
        match self {
            Self::Inline => None,
            Self::Queued(requests) => Some(requests),
        }
    }
}

/// A request in a model's queue.
pub(crate) struct QueuedRequest {
    pub(crate) model: Arc<Runner>,
    pub(crate) inputs: Inputs,
    pub(crate) outputs: Vec<usize>,
    /// How the request may share a run; `None` if it may not.
    pub(crate) batch: Option<BatchShare>,
    pub(crate) queued_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) cancel: Cancel,
    pub(crate) started: Arc<AtomicBool>,
    pub(crate) stages: Option<Arc<Stages>>,
    pub(crate) response: Box<dyn Respond>,
}

/// Receives a request's outputs, and then the result of its run.
pub(crate) trait Respond: Sink + Send {
    fn done(self: Box<Self>, result: Result<()>);
}

/// Sends the sink back to the protocol that waits for it.
pub(crate) struct ResponseSink<S> {
    pub(crate) sink: S,
    pub(crate) sender: oneshot::Sender<Result<S>>,
}

impl<S: Sink> Sink for ResponseSink<S> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        self.sink.output(index, value)
    }
}

impl<S: Sink + Send> Respond for ResponseSink<S> {
    fn done(self: Box<Self>, result: Result<()>) {
        let Self { sink, sender } = *self;
        // The receiver is gone if the client is.
        let _ = sender.send(result.map(|()| sink));
    }
}

impl Job for QueuedRequest {
    fn joins(&self, taken: &[Self]) -> bool {
        let (Some(share), [first, ..]) = (&self.batch, taken) else { return false };
        let Some(leader) = &first.batch else { return false };
        let (rows, bytes) = taken
            .iter()
            .filter_map(|request| request.batch.as_ref())
            .fold((share.rows, share.bytes), |(rows, bytes), other| (rows + other.rows, bytes + other.bytes));
        let soonest = taken.iter().map(|request| request.deadline).fold(self.deadline, Instant::min);
        rows <= leader.most
            && self.model.batching.allows(rows, bytes, soonest)
            && self.outputs == first.outputs
            && self.inputs.joins(&first.inputs)
    }

    fn run(jobs: Vec<Self>) {
        for request in &jobs {
            request.started.store(true, SeqCst);
            let now = Instant::now();
            request.model.metrics.queued(now - request.queued_at);
            if let Some(stages) = &request.stages {
                stages.note("queue", request.queued_at, now);
            }
        }
        Self::run_all(jobs);
    }
}

impl QueuedRequest {
    fn run_all(requests: Vec<Self>) {
        match <[Self; 1]>::try_from(requests) {
            Ok([request]) => request.alone(),
            Err(requests) => together(requests),
        }
    }

    fn alone(mut self) {
        let Self { model, inputs, outputs, cancel, stages, response, .. } = &mut self;
        let run = Run { model, inputs, outputs, cancel, mode: Mode::Queued(1), noted: stages.as_slice() };
        let result = run.into_sink(&mut **response);
        self.response.done(result);
    }
}

/// Runs the rows of all requests together. If that fails on the inputs, each half runs by itself: a fault in one
/// request must not fail the others, and halving finds it with few runs.
fn together(mut requests: Vec<QueuedRequest>) {
    let parts: Vec<_> = requests.iter().map(|request| &request.inputs).collect();
    let joined = Inputs::joined(&parts);
    let model = Arc::clone(&requests[0].model);
    let (outputs, mode) = (requests[0].outputs.clone(), Mode::Queued(requests.len()));
    let cancels: Vec<_> = requests.iter().map(|request| request.cancel.clone()).collect();
    let (cancel, hooks) = cancel_when_all_are(&cancels);
    let noted: Vec<_> = requests.iter().filter_map(|request| request.stages.clone()).collect();
    let mut split = Split::between(&mut requests, &model);
    let run = Run { model: &model, inputs: &joined, outputs: &outputs, cancel: &cancel, mode, noted: &noted };
    let result = run.into_sink(&mut split);
    let Split { results, begun, .. } = split;
    drop(hooks);
    match result {
        Err(error) if !begun && matches!(error.kind(), ErrorKind::Rejected | ErrorKind::TooLarge) => {
            let half = requests.split_off(requests.len() / 2);
            QueuedRequest::run_all(requests);
            QueuedRequest::run_all(half);
        }
        Err(error) => requests.into_iter().for_each(|request| request.response.done(Err(error.clone()))),
        Ok(()) => {
            for (request, result) in requests.into_iter().zip(results) {
                request.response.done(result);
            }
        }
    }
}

/// Returns what cancels a shared run once all its requests are canceled, and the hooks that see to it.
fn cancel_when_all_are(cancels: &[Cancel]) -> (Cancel, Vec<OnCancel<'_>>) {
    // Counts the requests that are not canceled.
    let (all, left) = (Cancel::new(), Arc::new(AtomicUsize::new(cancels.len())));
    let hook = |cancel| {
        let (left, all) = (Arc::clone(&left), all.clone());
        Cancel::on_cancel(cancel, move || {
            if left.fetch_sub(1, SeqCst) == 1 {
                all.cancel();
            }
        })
    };
    let hooks = cancels.iter().map(hook).collect();
    (all, hooks)
}

/// Passes each request its rows of the shared outputs.
struct Split<'a> {
    parts: Vec<(Range<usize>, &'a mut Box<dyn Respond>)>,
    rows: usize,
    /// The result of each request's own sink.
    results: Vec<Result<()>>,
    model: &'a Runner,
    begun: bool,
}

impl<'a> Split<'a> {
    fn between(requests: &'a mut [QueuedRequest], model: &'a Runner) -> Self {
        let mut rows = 0;
        let part = |request: &'a mut QueuedRequest| {
            let from = rows;
            rows += request.batch.as_ref().map_or(0, |share| share.rows);
            (from..rows, &mut request.response)
        };
        let parts: Vec<_> = requests.iter_mut().map(part).collect();
        let results = parts.iter().map(|_| Ok(())).collect();
        Self { parts, rows, results, model, begun: false }
    }
}

impl Sink for Split<'_> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        self.begun = true;
        for ((rows, response), result) in self.parts.iter_mut().zip(&mut self.results) {
            if result.is_err() {
                continue;
            }
            let taken = value.with_rows(rows.clone(), self.rows, |value| response.output(index, value));
            *result = taken.unwrap_or_else(|| {
                // The outputs of the sample had these rows. Requests of this model share no more runs.
                self.model.batching.stop();
                Err(wrong_rows(&self.model.name, value, self.rows))
            });
        }
        Ok(())
    }
}

/// Notes when the engine has finished and the encoding of its outputs begins.
struct Timed<'a> {
    sink: &'a mut dyn Sink,
    encoding: Option<Instant>,
}

impl Sink for Timed<'_> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        self.encoding.get_or_insert_with(Instant::now);
        self.sink.output(index, value)
    }
}

/// One run of a model.
pub(crate) struct Run<'a> {
    pub(crate) model: &'a Runner,
    pub(crate) inputs: &'a Inputs,
    pub(crate) outputs: &'a [usize],
    pub(crate) cancel: &'a Cancel,
    pub(crate) mode: Mode,
    /// Where the times of the run are noted, for traced requests.
    pub(crate) noted: &'a [Arc<Stages>],
}

impl Run<'_> {
    /// Runs the model on this thread and passes its outputs to `sink`.
    pub(crate) fn into_sink(self, sink: &mut dyn Sink) -> Result<()> {
        let Self { model, inputs, outputs, cancel, mode, noted } = self;
        let mut sink = Timed { sink, encoding: None };
        let started = Instant::now();
        let work = Work { inputs, outputs };
        let result = catch_unwind(AssertUnwindSafe(|| model.scorer.score(work, cancel, &mut sink)));
        let ended = Instant::now();
        let encoding = sink.encoding.unwrap_or(ended);
        model.metrics.ran(encoding - started, ended - encoding, mode.queued());
        for stages in noted {
            stages.note("compute", started, encoding);
            stages.note("encode", encoding, ended);
        }
        match result {
            Ok(Ok(())) => {
                model.learn(ended - started, inputs, mode);
                Ok(())
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Rejected => {
                match inputs.disagreement(&model.signature) {
                    Some(why) => Err(Error::new(ErrorKind::Rejected, format!("{} ({why})", error.message()))),
                    None => Err(error),
                }
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let message = format!("model `{}` panicked; the server's log says where", model.name);
                Err(Error::internal(message))
            }
        }
    }
}
