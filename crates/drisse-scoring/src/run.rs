//! What happens on the thread that runs a model: one request's run, or one that several share.

use crate::batching::{Batching, Share, other_rows};
use crate::model::Model;
use crate::workers::Job;
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
pub(crate) enum How {
    /// On the connection's own thread.
    Inline,
    /// On a worker's, for so many requests.
    Queued(usize),
}

/// A request in a model's lane.
pub(crate) struct Piece {
    pub(crate) model: Arc<Model>,
    pub(crate) inputs: Inputs,
    pub(crate) outputs: Vec<usize>,
    /// How it may share a run; none where it may not.
    pub(crate) batch: Option<Share>,
    pub(crate) queued_at: Instant,
    pub(crate) deadline: Instant,
    pub(crate) cancel: Cancel,
    pub(crate) started: Arc<AtomicBool>,
    pub(crate) stages: Option<Arc<Stages>>,
    pub(crate) waiting: Box<dyn Answer>,
}

/// Takes a request's outputs, and says that it is done.
pub(crate) trait Answer: Sink + Send {
    fn done(self: Box<Self>, result: Result<()>);
}

/// A request whose protocol waits for its sink.
pub(crate) struct Waiting<S> {
    pub(crate) sink: S,
    pub(crate) answer: oneshot::Sender<Result<S>>,
}

impl<S: Sink> Sink for Waiting<S> {
    fn output(&mut self, place: usize, value: ValueView<'_>) -> Result<()> {
        self.sink.output(place, value)
    }
}

impl<S: Sink + Send> Answer for Waiting<S> {
    fn done(self: Box<Self>, result: Result<()>) {
        let Self { sink, answer } = *self;
        // The receiver is gone when the client is.
        let _ = answer.send(result.map(|()| sink));
    }
}

impl Job for Piece {
    fn joins(&self, taken: &[Self]) -> bool {
        let (Some(share), [first, ..]) = (&self.batch, taken) else { return false };
        let Some(leader) = &first.batch else { return false };
        let (rows, bytes) = taken
            .iter()
            .filter_map(|piece| piece.batch.as_ref())
            .fold((share.rows, share.bytes), |(rows, bytes), other| (rows + other.rows, bytes + other.bytes));
        let soonest = taken.iter().map(|piece| piece.deadline).fold(self.deadline, Instant::min);
        rows <= leader.most
            && self.model.batching.allows(rows, bytes, soonest)
            && self.outputs == first.outputs
            && self.inputs.joins(&first.inputs)
    }

    fn run(jobs: Vec<Self>) {
        for piece in &jobs {
            piece.started.store(true, SeqCst);
            let now = Instant::now();
            piece.model.metrics.queued(now - piece.queued_at);
            if let Some(stages) = &piece.stages {
                stages.note("queue", piece.queued_at, now);
            }
        }
        Self::run_all(jobs);
    }
}

impl Piece {
    fn run_all(pieces: Vec<Self>) {
        match <[Self; 1]>::try_from(pieces) {
            Ok([piece]) => piece.alone(),
            Err(pieces) => together(pieces),
        }
    }

    fn alone(mut self) {
        let Self { model, inputs, outputs, cancel, stages, waiting, .. } = &mut self;
        let run = Run { model, inputs, outputs, cancel, how: How::Queued(1), noted: stages.as_slice() };
        let result = run.into_sink(&mut **waiting);
        self.waiting.done(result);
    }
}

/// Runs the rows of all at once. Where that fails on the inputs, each half runs by itself: what is wrong with one is not
/// the others' fault, and few of them have to run alone to find it.
fn together(mut pieces: Vec<Piece>) {
    let parts: Vec<_> = pieces.iter().map(|piece| &piece.inputs).collect();
    let joined = Inputs::joined(&parts);
    let model = Arc::clone(&pieces[0].model);
    let (outputs, cancels) = (pieces[0].outputs.clone(), Cancels::of(&pieces));
    let (how, hooks) = (How::Queued(pieces.len()), cancels.hooks());
    let noted: Vec<_> = pieces.iter().filter_map(|piece| piece.stages.clone()).collect();
    let mut split = Split::between(&mut pieces, &model.batching);
    let run =
        Run { model: &model, inputs: &joined, outputs: &outputs, cancel: &cancels.all, how, noted: &noted };
    let result = run.into_sink(&mut split);
    let Split { results, begun, .. } = split;
    drop(hooks);
    match result {
        Err(error) if !begun && matches!(error.kind(), ErrorKind::Rejected | ErrorKind::TooLarge) => {
            let half = pieces.split_off(pieces.len() / 2);
            Piece::run_all(pieces);
            Piece::run_all(half);
        }
        Err(error) => pieces.into_iter().for_each(|piece| piece.waiting.done(Err(error.clone()))),
        Ok(()) => {
            for (piece, result) in pieces.into_iter().zip(results) {
                piece.waiting.done(result);
            }
        }
    }
}

/// Ends a run that is shared once nobody waits for it any more.
struct Cancels {
    each: Vec<Cancel>,
    left: Arc<AtomicUsize>,
    all: Cancel,
}

impl Cancels {
    fn of(pieces: &[Piece]) -> Self {
        let each: Vec<_> = pieces.iter().map(|piece| piece.cancel.clone()).collect();
        Self { left: Arc::new(AtomicUsize::new(each.len())), each, all: Cancel::new() }
    }

    fn hooks(&self) -> Vec<OnCancel<'_>> {
        let hook = |cancel| {
            let (left, all) = (Arc::clone(&self.left), self.all.clone());
            Cancel::on_cancel(cancel, move || {
                if left.fetch_sub(1, SeqCst) == 1 {
                    all.cancel();
                }
            })
        };
        self.each.iter().map(hook).collect()
    }
}

/// Gives each request its rows of the outputs that all share.
struct Split<'a> {
    parts: Vec<(Range<usize>, &'a mut Box<dyn Answer>)>,
    rows: usize,
    /// What each request's own sink said.
    results: Vec<Result<()>>,
    batching: &'a Batching,
    begun: bool,
}

impl<'a> Split<'a> {
    fn between(pieces: &'a mut [Piece], batching: &'a Batching) -> Self {
        let mut rows = 0;
        let part = |piece: &'a mut Piece| {
            let from = rows;
            rows += piece.batch.as_ref().map_or(0, |share| share.rows);
            (from..rows, &mut piece.waiting)
        };
        let parts: Vec<_> = pieces.iter_mut().map(part).collect();
        let results = parts.iter().map(|_| Ok(())).collect();
        Self { parts, rows, results, batching, begun: false }
    }
}

impl Sink for Split<'_> {
    fn output(&mut self, place: usize, value: ValueView<'_>) -> Result<()> {
        self.begun = true;
        for ((rows, waiting), result) in self.parts.iter_mut().zip(&mut self.results) {
            if result.is_err() {
                continue;
            }
            let taken = value.with_rows(rows.clone(), self.rows, |value| waiting.output(place, value));
            *result = taken.unwrap_or_else(|| {
                // Its sample's had not. It does not happen twice.
                self.batching.stop();
                Err(other_rows())
            });
        }
        Ok(())
    }
}

/// Notes when the engine is done and its outputs are being encoded.
struct Timed<'a> {
    sink: &'a mut dyn Sink,
    encoding: Option<Instant>,
}

impl Sink for Timed<'_> {
    fn output(&mut self, place: usize, value: ValueView<'_>) -> Result<()> {
        self.encoding.get_or_insert_with(Instant::now);
        self.sink.output(place, value)
    }
}

/// One run of a model.
pub(crate) struct Run<'a> {
    pub(crate) model: &'a Model,
    pub(crate) inputs: &'a Inputs,
    pub(crate) outputs: &'a [usize],
    pub(crate) cancel: &'a Cancel,
    pub(crate) how: How,
    /// Where its parts are noted, for the requests that are traced.
    pub(crate) noted: &'a [Arc<Stages>],
}

impl Run<'_> {
    /// Runs the model on this thread.
    pub(crate) fn into_sink(self, sink: &mut dyn Sink) -> Result<()> {
        let Self { model, inputs, outputs, cancel, how, noted } = self;
        let mut sink = Timed { sink, encoding: None };
        let started = Instant::now();
        let work = Work { inputs, outputs };
        let result = catch_unwind(AssertUnwindSafe(|| model.scorer.score(work, cancel, &mut sink)));
        let ended = Instant::now();
        let encoding = sink.encoding.unwrap_or(ended);
        model.metrics.ran(encoding - started, ended - encoding, how);
        for stages in noted {
            stages.note("compute", started, encoding);
            stages.note("encode", encoding, ended);
        }
        match result {
            Ok(Ok(())) => {
                model.learn(ended - started, inputs, how);
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
                let name = &model.name;
                Err(Error::internal(format!("model `{name}` panicked; the server's log has the place")))
            }
        }
    }
}
