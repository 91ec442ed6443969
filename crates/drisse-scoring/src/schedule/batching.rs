//! Whether requests may share a run of a model, and how many: tested on the model's sample before it is served, then
//! learned from its runs.

use super::approx_eq::approx_eq;
use super::batch_size::BatchSize;
use super::perturb::perturbed;
use super::runner::Runner;
use super::trial::{Outputs, run_once};
use drisse_core::{Cancel, Error, Inputs, ModelName, Scorer, Signature, ValueView};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The largest inputs of one shared run, in bytes. Outputs and intermediate values take about as much again.
const MAX_BYTES: usize = 64 << 20;

/// The time to measure batch sizes before the model is served.
const TRIAL: Duration = Duration::from_millis(200);

/// How far random floats are from zero, relative to the sample's: models that clip values or compare them with a bound
/// show it only for larger values.
const REACHES: [f64; 3] = [1.0, 10.0, 100.0];

/// How requests share a model's runs.
#[derive(Debug)]
pub(crate) struct Batching {
    on: AtomicBool,
    size: BatchSize,
    /// The mean size of a request's inputs, in bytes.
    request_bytes: AtomicUsize,
    max_rows: usize,
    /// The longest shared run: requests that arrive during a run wait for its end.
    max_run: Duration,
}

/// A request's part of a shared run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchShare {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    /// The largest number of rows of a run that begins with this request.
    pub(crate) most: usize,
}

impl Batching {
    /// Creates the state of a model whose requests share no runs until [`prove`] succeeds.
    pub(crate) fn new(max_rows: usize, max_run: Duration) -> Self {
        Self {
            on: AtomicBool::new(false),
            size: BatchSize::default(),
            request_bytes: AtomicUsize::new(0),
            max_rows,
            max_run,
        }
    }

    /// Returns how a request with `inputs` of `bytes` may share a run; `None` if it may not.
    pub(crate) fn of(&self, inputs: &Inputs, bytes: usize) -> Option<BatchShare> {
        if !self.on.load(Relaxed) {
            return None;
        }
        Some(BatchShare { rows: inputs.rows()?, bytes, most: self.size.rows().min(self.max_rows) })
    }

    /// Returns whether a run of this size is within the bounds and, if it starts now, ends before `soonest`.
    pub(crate) fn allows(&self, rows: usize, bytes: usize, soonest: Instant) -> bool {
        let time = self.size.time(rows, bytes).unwrap_or_default();
        bytes <= MAX_BYTES && time <= self.max_run && Instant::now() + time <= soonest
    }

    /// Returns the number of rows per run with the highest throughput; 1 if requests share no runs.
    pub(crate) fn best(&self) -> usize {
        if self.on.load(Relaxed) { self.size.best().min(self.max_rows) } else { 1 }
    }

    /// Returns the engine time per request of a full run; `None` if requests share no runs.
    pub(crate) fn amortized(&self) -> Option<Duration> {
        let bytes = self.request_bytes.load(Relaxed);
        self.on.load(Relaxed).then(|| self.size.time(self.size.best(), bytes)).flatten()
    }

    /// Learns from a run for this many requests.
    pub(crate) fn learn(&self, inputs: &Inputs, requests: usize, took: Duration) {
        if let Some(rows) = inputs.rows().filter(|_| self.on.load(Relaxed)) {
            let bytes = inputs.byte_len();
            let (mean, each) = (self.request_bytes.load(Relaxed), bytes / requests.max(1));
            self.request_bytes.store(if mean == 0 { each } else { mean - mean / 8 + each / 8 }, Relaxed);
            self.size.learn(rows, bytes, took);
        }
    }

    /// Ends shared runs: each request runs by itself from now on.
    pub(crate) fn stop(&self) {
        self.on.store(false, Relaxed);
    }
}

/// Lets requests share runs of `model` if that changes no outputs of its sample, and measures batch sizes. Blocks.
///
/// # Errors
/// Returns the reason if requests do not share runs.
pub(crate) fn prove(model: &Runner, sample: &Inputs, cancel: &Cancel) -> Result<(), &'static str> {
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

/// Checks that rows have the same outputs together as by themselves, as far as the model's operators and its sample
/// show.
///
/// # Errors
/// Returns the reason if the rows are not independent.
pub(crate) fn rows_are_independent(
    scorer: &dyn Scorer,
    signature: &Signature,
    sample: &Inputs,
    cancel: &Cancel,
) -> Result<(), &'static str> {
    scorer.limits().rows_independent?;
    if !signature.has_free_rows() {
        return Err("not every input has a first dimension of any length");
    }
    let rows = sample.rows().ok_or("the sample's inputs have no rows in common")?;
    let all = signature.outputs.len();
    let outputs = |inputs: &Inputs| Outputs::of(scorer, inputs, all, cancel);
    let mut parts = vec![(sample.clone(), outputs(sample).map_err(|_| "the sample does not score")?)];
    for (seed, reach) in (1..).zip(REACHES) {
        // Indices into a table cannot be arbitrary: if the model fails on random integers, the sample's stay.
        let made = [true, false].into_iter().find_map(|all| {
            let other = perturbed(sample, seed, reach, all);
            outputs(&other).ok().map(|alone| (other, alone))
        });
        parts.extend(made);
    }
    // Other rows in between show a change of order; the sample twice shows a count of equal rows.
    let parts: Vec<_> = parts.iter().chain(parts.first()).collect();
    let joined = Inputs::joined(&parts.iter().map(|(inputs, _)| inputs).collect::<Vec<_>>());
    let together = outputs(&joined).map_err(|_| "the model does not take several rows")?;
    let same = |(nth, (_, alone)): (usize, &&(Inputs, Outputs))| {
        let part = || nth * rows..(nth + 1) * rows;
        together.0.len() == alone.0.len()
            && together.0.iter().zip(&alone.0).all(|(together, alone)| {
                let close = |part: ValueView<'_>| approx_eq(part, alone.view());
                together.view().with_rows(part(), parts.len() * rows, close) == Some(true)
            })
    };
    if !parts.iter().enumerate().all(same) {
        return Err("rows that run together have other outputs than by themselves");
    }
    Ok(())
}

/// Measures runs of more and more copies of the sample, until a row gets no cheaper.
fn time_sizes(model: &Runner, sample: &Inputs, cancel: &Cancel) {
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

/// Returns the error of a request whose rows cannot be found in an output of a shared run of `rows` input rows.
pub(crate) fn wrong_rows(model: &ModelName, output: ValueView<'_>, rows: usize) -> Error {
    let output = match output {
        ValueView::Tensor(tensor) => format!("an output of shape {:?}", tensor.shape),
        ValueView::Other(_) => "an output that cannot be split into rows".to_owned(),
    };
    Error::internal(format!("a batched run of model `{model}` returned {output} for {rows} input rows"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_core::{
        Buffer, Data, DataType, Dim, Port, Result, ScorerLimits, Shape, Sink, Tensor, TensorType, ValueType,
        Work,
    };

    const WIDTH: usize = 3;

    /// A model of rows of three floats.
    struct Rows(fn(&[f32]) -> Vec<f32>);

    impl Scorer for Rows {
        fn limits(&self) -> ScorerLimits {
            ScorerLimits { concurrency: 1, steady: true, rows_independent: Ok(()) }
        }

        fn score(&self, work: Work<'_>, _: &Cancel, sink: &mut dyn Sink) -> Result<()> {
            let x = work.inputs.get(0).expect("it has one input");
            let Data::Raw(buffer) = &x.data else { panic!("strings") };
            sink.output(0, ValueView::Tensor(tensor(&self.0(buffer.elements())).view()))
        }
    }

    fn tensor(numbers: &[f32]) -> Tensor {
        let mut buffer = Buffer::new();
        numbers.iter().for_each(|&number| buffer.push(number));
        let shape = Shape::from_slice(&[(numbers.len() / WIDTH) as i64, WIDTH as i64]);
        Tensor { datatype: DataType::Fp32, shape, data: Data::Raw(buffer) }
    }

    fn is_proved(sample: &[f32], model: fn(&[f32]) -> Vec<f32>) -> bool {
        let dims = vec![Dim::Free(None), Dim::Fixed(WIDTH as i64)];
        let kind = ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape: Some(dims) });
        let port = Port { name: "x".to_owned(), kind, optional: false };
        let signature = Signature { inputs: vec![port.clone()], outputs: vec![port] };
        let mut inputs = Inputs::new(&signature);
        inputs.set(&signature, 0, tensor(sample)).unwrap();
        rows_are_independent(&Rows(model), &signature, &inputs, &Cancel::never()).is_ok()
    }

    #[test]
    fn rows_that_reach_each_other_show_on_any_sample() {
        fn norm(x: &[f32]) -> f32 {
            x.iter().map(|x| x * x).sum::<f32>().sqrt()
        }
        let each = |x: &[f32]| x.iter().map(|x| x.tanh()).collect();
        let clipped = |x: &[f32]| x.iter().map(|v| v * (8.0 / norm(x)).min(1.0)).collect();
        let reversed = |x: &[f32]| x.chunks(WIDTH).rev().flatten().copied().collect();
        let bounded =
            |x: &[f32]| x.iter().map(|v| v / x.iter().fold(1.0, |m: f32, v| m.max(v.abs()))).collect();
        let outliers = |x: &[f32]| match x.iter().any(|v| v.abs() > 6.0) {
            true => x.iter().map(|v| v / 2.0).collect(),
            false => x.to_vec(),
        };
        let counted =
            |x: &[f32]| x.iter().map(|v| x.iter().filter(|other| *other == v).count() as f32).collect();
        for sample in [&[0.0; 3][..], &[0.4, -0.1, 0.2], &[0.4, -0.1, 0.2, 1.0, 0.5, -1.5]] {
            assert!(is_proved(sample, each), "{sample:?}");
            assert!(!is_proved(sample, clipped), "clipped, {sample:?}");
            assert!(!is_proved(sample, reversed), "reversed, {sample:?}");
            assert!(!is_proved(sample, bounded), "bounded, {sample:?}");
            assert!(!is_proved(sample, outliers), "outliers, {sample:?}");
            assert!(!is_proved(sample, counted), "counted, {sample:?}");
        }
    }
}
