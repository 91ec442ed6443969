//! The engine seam: the traits of everything that can run a model.
//!
//! The traits are synchronous on purpose: the scoring server decides on which thread a run happens.

use crate::{Cancel, Inputs, Result, Signature, ValueView};
use std::fmt::Debug;
use std::path::PathBuf;

/// Loads models: ONNX Runtime, Python workers, an FPGA.
///
/// Any thread may call any method, also while other calls are under way. The methods block, so async code calls
/// [`load`](Self::load) on a thread that may block.
///
/// ```
/// use drisse_core::{Cancel, Engine, EngineOptions, Inputs, LoadedPackage, Result, Sink, Work};
///
/// fn run_once(engine: &dyn Engine, model: &LoadedPackage, inputs: &Inputs, out: &mut dyn Sink) -> Result<()> {
///     inputs.check(&model.signature)?;
///     let scorer = engine.load(model, &EngineOptions::default())?;
///     scorer.score(Work { inputs, outputs: &[0] }, &Cancel::new(), out)
/// }
/// ```
pub trait Engine: Debug + Send + Sync {
    /// Returns the name that users and metrics see, such as `onnx`.
    fn name(&self) -> &'static str;

    /// Checks whether this machine can run the engine.
    ///
    /// # Errors
    /// Returns the reason and a hint if this machine cannot run the engine.
    fn check(&self) -> Result<(), Unavailable>;

    /// Returns how many bytes of memory all loaded models may use together.
    fn memory(&self) -> usize {
        usize::MAX
    }

    /// Loads a model.
    ///
    /// # Errors
    /// Returns an error of one line that names the node or operator if the model cannot be loaded.
    fn load(&self, model: &LoadedPackage, options: &EngineOptions) -> Result<Box<dyn Scorer>>;
}

/// A loaded model. Dropping it frees the model's memory.
///
/// Any number of threads may call [`score`](Self::score) at the same time; more than [`ScorerLimits::concurrency`]
/// runs at once do not increase the throughput.
///
/// ```
/// use drisse_core::{Cancel, Result, Scorer, ScorerLimits, Sink, ValueView, Work};
///
/// struct Echo;
///
/// impl Scorer for Echo {
///     fn limits(&self) -> ScorerLimits {
///         ScorerLimits { concurrency: 1, steady: true, rows_meet: None }
///     }
///     fn score(&self, work: Work<'_>, _: &Cancel, out: &mut dyn Sink) -> Result<()> {
///         let input = ValueView::Tensor(work.inputs.get(0).expect("the inputs were checked").view());
///         work.outputs.iter().try_for_each(|&index| out.output(index, input))
///     }
/// }
/// ```
pub trait Scorer: Send + Sync {
    /// Returns what the scheduler must know about the model.
    fn limits(&self) -> ScorerLimits;

    /// Runs the model once and passes each requested output to `out`, in the order of [`Work::outputs`].
    ///
    /// Blocks until the run ends; to end it early, another thread calls [`Cancel::cancel`]. The caller has checked the
    /// inputs with [`Inputs::check`]. After an error, `out` may have received some of the outputs. The scoring
    /// server turns a panic into an [`Internal`](crate::ErrorKind::Internal) error of this run.
    ///
    /// # Errors
    /// [`Rejected`](crate::ErrorKind::Rejected) if the model fails on these inputs,
    /// [`TooLarge`](crate::ErrorKind::TooLarge) if the memory does not suffice for them,
    /// [`Cancelled`](crate::ErrorKind::Cancelled) if `cancel` was raised, and any error that `out` returns.
    fn score(&self, work: Work<'_>, cancel: &Cancel, out: &mut dyn Sink) -> Result<()>;
}

/// One run: its inputs and the outputs to return.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The inputs, in the order of [`Signature::inputs`].
    pub inputs: &'a Inputs,
    /// Indices of the requested outputs in [`Signature::outputs`]; not empty.
    pub outputs: &'a [usize],
}

/// Receives the outputs of a run, on the thread that called [`Scorer::score`], one after the other.
///
/// ```
/// use drisse_core::{Result, Sink, Value, ValueView};
///
/// struct Copies(Vec<(usize, Value)>);
///
/// impl Sink for Copies {
///     fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
///         self.0.push((index, Value::copy_of(value)));
///         Ok(())
///     }
/// }
/// ```
pub trait Sink {
    /// Receives the output at `index` of [`Signature::outputs`]. `value` is valid only during the call: encode it or
    /// copy it.
    ///
    /// # Errors
    /// Returns an error if the sink cannot encode or store the value; the run then ends with this error.
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()>;
}

/// A model's files, ready to be loaded, and what an inspection of them found.
#[derive(Clone, Debug)]
pub struct LoadedPackage {
    /// The file that the engine opens; the files that it refers to are in the same folder.
    pub path: PathBuf,
    /// The model's inputs and outputs.
    pub signature: Signature,
    /// Whether the run time depends on input values and not only on shapes (loops, sizes as inputs).
    pub data_dependent: bool,
    /// Why the rows of a batch may influence each other's outputs; `None` if no operator does that.
    pub rows_meet: Option<&'static str>,
    /// An operator that crashes the process if an input has no elements (ONNX Runtime's recurrent operators).
    pub wants_elements: Option<&'static str>,
}

/// How an engine runs one model.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Threads that one run uses, at least 1; `None`: all threads of the engine. The useful concurrency is the number
    /// of the engine's threads divided by this.
    pub threads: Option<usize>,
}

/// What the scheduler must know about a loaded model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScorerLimits {
    /// How many runs at once still increase the throughput; at least 1.
    pub concurrency: usize,
    /// Whether inputs of equal shapes take about equal time. If not, no run happens on a thread that has other work.
    pub steady: bool,
    /// Why rows along the first dimension may influence each other's outputs; `None` if the model's operators show
    /// no reason.
    pub rows_meet: Option<&'static str>,
}

/// Why this machine cannot do something, and how to change that.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// What is missing.
    pub reason: String,
    /// What to do next.
    pub hint: String,
}
