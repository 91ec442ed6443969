//! Whether requests may share a run of a model, and how many: shown on its sample before it is served, then learned.

use crate::config::Config;
use crate::model::Model;
use crate::trial::run_once;
use drisse_core::{
    BatchSize, Cancel, Error, Inputs, Result, Scorer, Signature, Sink, Value, ValueView, Work,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Inputs of one run together, at most. Outputs and what the engine keeps meanwhile are about as much again.
const MAX_BYTES: usize = 64 << 20;

/// The sizes are timed for so long, before the model is served.
const TRIAL: Duration = Duration::from_millis(200);

/// How requests share a model's runs.
#[derive(Debug)]
pub(crate) struct Batching {
    on: AtomicBool,
    size: BatchSize,
    /// Bytes of a request's inputs, on average.
    request_bytes: AtomicUsize,
    max_rows: usize,
    /// A run makes those wait that come meanwhile.
    max_run: Duration,
}

/// What a request that may share a run brings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    /// Rows of the run that begins with this request, at most.
    pub(crate) most: usize,
}

impl Batching {
    /// Off, until [`prove`] has shown that nobody can tell.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            on: AtomicBool::new(false),
            size: BatchSize::default(),
            request_bytes: AtomicUsize::new(0),
            max_rows: config.max_batch,
            max_run: config.max_wait,
        }
    }

    /// How a request with `inputs` of `bytes` may share a run.
    pub(crate) fn of(&self, inputs: &Inputs, bytes: usize) -> Option<Share> {
        if !self.on.load(Relaxed) {
            return None;
        }
        Some(Share { rows: inputs.rows()?, bytes, most: self.size.rows().min(self.max_rows) })
    }

    /// Whether a run of so much is within the bounds, and answered in time.
    pub(crate) fn allows(&self, rows: usize, bytes: usize, soonest: Instant) -> bool {
        let time = self.size.time(rows, bytes).unwrap_or_default();
        bytes <= MAX_BYTES && time <= self.max_run && Instant::now() + time <= soonest
    }

    /// How many requests are best run at once.
    pub(crate) fn best(&self) -> usize {
        if self.on.load(Relaxed) { self.size.best().min(self.max_rows) } else { 1 }
    }

    /// What a request takes of the engine's time where many wait; `None` where each runs by itself.
    pub(crate) fn share(&self) -> Option<Duration> {
        let bytes = self.request_bytes.load(Relaxed);
        self.on.load(Relaxed).then(|| self.size.time(self.size.best(), bytes)).flatten()
    }

    /// Learns from a run for so many requests that took so long.
    pub(crate) fn learn(&self, inputs: &Inputs, requests: usize, took: Duration) {
        if let Some(rows) = inputs.rows().filter(|_| self.on.load(Relaxed)) {
            let bytes = inputs.byte_len();
            let (mean, each) = (self.request_bytes.load(Relaxed), bytes / requests.max(1));
            self.request_bytes.store(if mean == 0 { each } else { mean - mean / 8 + each / 8 }, Relaxed);
            self.size.learn(rows, bytes, took);
        }
    }

    /// Requests run by themselves from now on.
    pub(crate) fn stop(&self) {
        self.on.store(false, Relaxed);
    }
}

/// Lets requests share runs of `model` where the sample shows that nobody can tell, and times how many at once. Says
/// why not. Blocks.
pub(crate) fn prove(model: &Model, sample: &Inputs, cancel: &Cancel) -> Result<(), &'static str> {
    let batching = &model.batching;
    if batching.max_rows < 2 {
        return Err("it is switched off");
    }
    if model.service_time().mean() * 2 > batching.max_run {
        return Err("runs are too long for others to wait for them");
    }
    rows_are_independent(&*model.scorer, &model.signature, sample, cancel)?;
    batching.on.store(true, Relaxed);
    batching.request_bytes.store(sample.byte_len(), Relaxed);
    time_sizes(model, sample, cancel);
    Ok(())
}

/// Whether a model gives rows the same outputs together as by themselves, as far as its operators say and its sample
/// shows; or why not.
pub(crate) fn rows_are_independent(
    scorer: &dyn Scorer,
    signature: &Signature,
    sample: &Inputs,
    cancel: &Cancel,
) -> Result<(), &'static str> {
    if let Some(why) = scorer.limits().rows_meet {
        return Err(why);
    }
    if !signature.has_free_rows() {
        return Err("not every input has a first dimension of any length");
    }
    let rows = sample.rows().ok_or("the sample's inputs have no rows in common")?;
    let all = signature.outputs.len();
    let outputs =
        |inputs: &Inputs| Kept::of(scorer, inputs, all, cancel).map_err(|_| "the sample does not score");
    // Other rows than the sample's, so that rows that reach into each other show; where the model takes them.
    let other = sample.varied();
    let (other, other_alone) = match outputs(&other) {
        Ok(alone) => (other, alone),
        Err(_) => (sample.clone(), outputs(sample)?),
    };
    let alone = outputs(sample)?;
    let both = Kept::of(scorer, &Inputs::joined(&[sample, &other, sample]), all, cancel);
    let both = both.map_err(|_| "the model does not take several rows")?;
    let same = |kept: &Kept, nth: usize| {
        both.0.len() == kept.0.len()
            && both.0.iter().zip(&kept.0).all(|(all, one)| {
                let part = nth * rows..(nth + 1) * rows;
                all.view().with_rows(part, 3 * rows, |all| all.is_close_to(one.view())) == Some(true)
            })
    };
    if !(same(&alone, 0) && same(&other_alone, 1) && same(&alone, 2)) {
        return Err("rows that run together have other outputs than by themselves");
    }
    Ok(())
}

/// Times runs of the sample's rows, as often as it takes to see where more at once cost no less.
fn time_sizes(model: &Model, sample: &Inputs, cancel: &Cancel) {
    let batching = &model.batching;
    let (began, bytes) = (Instant::now(), sample.byte_len());
    let mut copies = 1;
    let mut worse = 0;
    while copies <= batching.max_rows && copies.saturating_mul(bytes) <= MAX_BYTES && worse < 2 {
        let joined = Inputs::joined(&vec![sample; copies]);
        let rows = joined.rows().unwrap_or(1);
        let mut times = Vec::new();
        while times.len() < 3 {
            let started = Instant::now();
            if run_once(&*model.scorer, &joined, model.signature.outputs.len(), cancel).is_err() {
                return;
            }
            times.push(started.elapsed());
            if began.elapsed() > TRIAL {
                break;
            }
        }
        times.sort();
        let took = times[times.len() / 2];
        batching.size.learn(rows, copies * bytes, took);
        worse = if batching.size.best() >= rows { 0 } else { worse + usize::from(copies > 1) };
        if began.elapsed() > TRIAL || took * 2 > batching.max_run || rows >= BatchSize::MOST {
            return;
        }
        copies *= 2;
    }
}

/// All outputs of a run.
struct Kept(Vec<Value>);

impl Kept {
    fn of(scorer: &dyn Scorer, inputs: &Inputs, outputs: usize, cancel: &Cancel) -> Result<Self> {
        let outputs: Vec<_> = (0..outputs).collect();
        let mut kept = Self(Vec::new());
        scorer.score(Work { inputs, outputs: &outputs }, cancel, &mut kept)?;
        Ok(kept)
    }
}

impl Sink for Kept {
    fn output(&mut self, _: usize, value: ValueView<'_>) -> Result<()> {
        self.0.push(Value::copy_of(value));
        Ok(())
    }
}

/// What an answer says of rows that came back from a run otherwise than its sample's did.
pub(crate) fn other_rows() -> Error {
    Error::internal("an output of requests that shared a run has other rows than their inputs")
}
