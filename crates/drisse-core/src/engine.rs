//! The engine seam: the traits of everything that can run a model.
//!
//! The traits are synchronous on purpose: the scoring server decides on which thread a run happens.

use crate::{Cancel, Error, Inputs, Result, Signature, ValueView};
use std::collections::BTreeMap;
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

    /// Returns the engine and the format of its models, as V2 metadata shows them.
    fn platform(&self) -> &'static str {
        self.name()
    }

    /// Checks whether this machine can run the engine.
    ///
    /// # Errors
    /// Returns the reason and a hint if this machine cannot run the engine.
    fn check(&self) -> Result<(), UnavailableError>;

    /// Returns how many bytes of memory all loaded models may use together.
    fn memory(&self) -> usize {
        usize::MAX
    }

    /// Loads a model.
    ///
    /// # Errors
    /// Returns an error of one line that names the node or operator if the model cannot be loaded. An option or a device
    /// that the engine does not know is an error that names those that it knows ([`EngineOptions::check`]).
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
///         ScorerLimits { concurrency: 1, steady: true, rows_independent: Ok(()) }
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
    /// Facts about the model's runs.
    pub traits: ModelTraits,
}

impl LoadedPackage {
    /// Creates the package of a model without special traits.
    pub fn new(path: impl Into<PathBuf>, signature: Signature) -> Self {
        Self { path: path.into(), signature, traits: ModelTraits::default() }
    }
}

/// Facts about a model's runs that its files show. Engines and the scheduler rely on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModelTraits {
    /// Whether the run time depends on input values and not only on shapes (loops, sizes as inputs).
    pub data_dependent: bool,
    /// Whether each row of a batch has the same outputs as if it ran alone, as far as the operators show; the error is
    /// the reason why not.
    pub rows_independent: Result<(), &'static str>,
    /// An operator that fails, or crashes the process, if an input has no elements (recurrent operators in ONNX Runtime).
    pub requires_elements: Option<&'static str>,
}

impl Default for ModelTraits {
    fn default() -> Self {
        Self { data_dependent: false, rows_independent: Ok(()), requires_elements: None }
    }
}

/// How an engine runs one model.
///
/// ```
/// use drisse_core::EngineOptions;
///
/// let options = EngineOptions { device: Some("gpu:0".to_owned()), ..EngineOptions::default() };
/// let error = options.check("onnx", &["cpu"], &[]).unwrap_err();
/// assert_eq!(error.message(), "the engine `onnx` has no device `gpu:0`: it has `cpu`");
/// ```
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Threads that one run uses, at least 1; `None`: all threads of the engine. The useful concurrency is the number
    /// of the engine's threads divided by this.
    pub threads: Option<usize>,
    /// The device that runs the model, in the engine's own words; `None`: the engine chooses.
    pub device: Option<String>,
    /// The engine's own options, by name.
    pub options: BTreeMap<String, String>,
}

impl EngineOptions {
    /// Checks the device and the options against those that the engine knows.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), naming those that the engine knows, if there is another one.
    pub fn check(&self, engine: &str, devices: &[&str], options: &[&str]) -> Result<()> {
        let given = [("device", devices, self.device.iter().collect::<Vec<_>>())];
        for (what, known, given) in
            given.into_iter().chain([("option", options, self.options.keys().collect())])
        {
            let Some(unknown) = given.into_iter().find(|name| !known.contains(&name.as_str())) else {
                continue;
            };
            let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("the engine `{engine}` has no {what} `{unknown}`: it has {known}");
            return Err(Error::invalid(message));
        }
        Ok(())
    }
}

/// What the scheduler must know about a loaded model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScorerLimits {
    /// How many runs at once still increase the throughput; at least 1.
    pub concurrency: usize,
    /// Whether inputs of equal shapes take about equal time. If not, no run happens on a thread that has other work.
    pub steady: bool,
    /// Whether each row along the first dimension has the same outputs as if it ran alone, as far as the operators show;
    /// the error is the reason why not.
    pub rows_independent: Result<(), &'static str>,
}

/// Why this machine cannot do something, and how to change that.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct UnavailableError {
    /// What is missing.
    pub reason: String,
    /// What to do next.
    pub hint: String,
}
