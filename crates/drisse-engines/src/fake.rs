//! An engine that echoes its inputs, with scripted delays and failures, for tests of everything above the seam.

use drisse_core::{
    Buffer, Cancel, Data, DataType, Engine, EngineOptions, Error, ErrorKind, LoadedPackage, Result, Scorer,
    ScorerLimits, Sink, Tensor, UnavailableError, ValueView, Work,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The behavior of a model. The default echoes at once and never fails.
#[derive(Clone, Debug)]
pub struct Script {
    /// The time that each run takes.
    pub latency: Duration,
    /// The additional time for each row of the inputs.
    pub row: Duration,
    /// The additional time for each step, if the first input is an `INT64` number of steps.
    pub step: Option<Duration>,
    /// Whether outputs depend on the number of rows that run together, as in a model that averages over its batch.
    pub mixes: bool,
    /// Fails each run whose FP32 inputs contain this number.
    pub refused: Option<f32>,
    /// Fails every n-th run.
    pub fail_every: Option<u64>,
    /// Panics in every n-th run.
    pub panic_every: Option<u64>,
    /// Fails to load the model, for this reason.
    pub load_error: Option<String>,
    /// The limits that the model reports.
    pub limits: ScorerLimits,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            row: Duration::ZERO,
            step: None,
            mixes: false,
            refused: None,
            fail_every: None,
            panic_every: None,
            load_error: None,
            limits: ScorerLimits { concurrency: 2, steady: true, rows_independent: Ok(()) },
        }
    }
}

/// The engine `fake`. It finds the script of a model by the model's path; no file is read.
///
/// ```
/// use drisse_core::{Engine, EngineOptions, LoadedPackage, Signature};
/// use drisse_engines::fake::{FakeEngine, Script};
///
/// let script = Script { load_error: Some("no such operator".to_owned()), ..Script::default() };
/// let engine = FakeEngine::default().with("broken.onnx", script);
/// let model = LoadedPackage::new("broken.onnx", Signature::default());
/// assert!(engine.load(&model, &EngineOptions::default()).is_err());
/// ```
#[derive(Debug, Default)]
pub struct FakeEngine {
    scripts: HashMap<PathBuf, Script>,
    runs: Arc<AtomicU64>,
}

impl FakeEngine {
    /// Sets the script of the model at `path`.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, script: Script) -> Self {
        self.scripts.insert(path.into(), script);
        self
    }

    /// Returns the counter of started runs.
    pub fn runs(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.runs)
    }
}

impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn check(&self) -> Result<(), UnavailableError> {
        Ok(())
    }

    fn load(&self, model: &LoadedPackage, options: &EngineOptions) -> Result<Box<dyn Scorer>> {
        options.check(self.name(), &[], &[])?;
        let script = self.scripts.get(&model.path).cloned().unwrap_or_default();
        match &script.load_error {
            Some(why) => Err(Error::new(ErrorKind::InvalidInput, why.clone())),
            None => Ok(Box::new(FakeScorer { script, runs: Arc::clone(&self.runs) })),
        }
    }
}

struct FakeScorer {
    script: Script,
    runs: Arc<AtomicU64>,
}

impl Scorer for FakeScorer {
    fn limits(&self) -> ScorerLimits {
        self.script.limits
    }

    fn score(&self, work: Work<'_>, cancel: &Cancel, out: &mut dyn Sink) -> Result<()> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        let every = |n: Option<u64>| n.is_some_and(|n| run.is_multiple_of(n));
        wait(self.script.latency + self.rows(work) + self.steps(work), cancel)?;
        assert!(!every(self.script.panic_every), "run {run} panics, as scripted");
        if every(self.script.fail_every) {
            return Err(Error::new(ErrorKind::Rejected, format!("run {run} fails, as scripted")));
        }
        if let Some(number) = self.script.refused.filter(|&number| holds(work, number)) {
            return Err(Error::new(ErrorKind::Rejected, format!("{number} is refused, as scripted")));
        }
        for &index in work.outputs {
            let input = work.inputs.get(index).or(work.inputs.get(0));
            let input = input.ok_or_else(|| Error::invalid("the request has no input to echo"))?;
            match self.script.mixes {
                true => out.output(index, ValueView::Tensor(mixed(input).view()))?,
                false => out.output(index, ValueView::Tensor(input.view()))?,
            }
        }
        Ok(())
    }
}

impl FakeScorer {
    fn rows(&self, work: Work<'_>) -> Duration {
        let rows = work.inputs.rows().and_then(|rows| u32::try_from(rows).ok());
        self.script.row.saturating_mul(rows.unwrap_or(1))
    }

    fn steps(&self, work: Work<'_>) -> Duration {
        let count = work.inputs.get(0).filter(|input| input.datatype == DataType::Int64);
        match (self.script.step, count.map(|input| &input.data)) {
            (Some(step), Some(Data::Raw(buffer))) => {
                let steps = buffer.elements::<i64>().first().copied().unwrap_or(0);
                step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
            }
            _ => Duration::ZERO,
        }
    }
}

/// Adds the number of rows to each FP32 element.
fn mixed(input: &Tensor) -> Tensor {
    let mut input = input.clone();
    let rows = input.shape.first().copied().unwrap_or(0) as f32;
    if let (Data::Raw(buffer), DataType::Fp32) = (&mut input.data, input.datatype) {
        let numbers: Vec<f32> = buffer.elements::<f32>().iter().map(|number| number + rows).collect();
        *buffer = Buffer::new();
        numbers.into_iter().for_each(|number| buffer.push(number));
    }
    input
}

fn holds(work: Work<'_>, number: f32) -> bool {
    work.inputs.given().any(|(_, tensor)| match &tensor.data {
        Data::Raw(buffer) if tensor.datatype == DataType::Fp32 => buffer.elements().contains(&number),
        _ => false,
    })
}

/// Waits until `latency` has passed or the flag is raised.
fn wait(latency: Duration, cancel: &Cancel) -> Result<()> {
    let until = Instant::now() + latency;
    let waiter = std::thread::current();
    let _wake = cancel.on_cancel(move || waiter.unpark());
    loop {
        if cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "the run was canceled"));
        }
        match until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            Some(left) => std::thread::park_timeout(left),
            None => return Ok(()),
        }
    }
}
