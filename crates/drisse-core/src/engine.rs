//! The engine seam: what can run a model.
//!
//! Synchronous on purpose. The scoring server decides on which thread a run happens.

use crate::{Cancel, Inputs, Result, Signature, ValueView};
use std::fmt::Debug;
use std::path::PathBuf;

/// A thing that can run models: ONNX Runtime, Python workers, an FPGA.
pub trait Engine: Debug + Send + Sync {
    /// The name users and metrics see, such as `onnx`.
    fn name(&self) -> &'static str;

    /// Why this machine cannot run the engine, if it cannot.
    fn check(&self) -> Result<(), Unavailable>;

    /// Bytes of memory that all models may take together.
    fn memory(&self) -> usize {
        usize::MAX
    }

    /// Loads a model. Says in one line why it cannot, naming the node or operator.
    fn load(&self, model: &LoadedPackage, options: &EngineOptions) -> Result<Box<dyn Scorer>>;
}

/// A loaded model. Scores any number of requests at once, up to what [`ScorerLimits`] calls useful.
pub trait Scorer: Send + Sync {
    /// What the scheduler has to know.
    fn limits(&self) -> ScorerLimits;

    /// Runs the model once and hands each output asked for to `out`, in the order asked.
    ///
    /// `work` has passed [`Inputs::check`]. Ends early with [`crate::ErrorKind::Cancelled`] when
    /// `cancel` is raised.
    fn score(&self, work: Work<'_>, cancel: &Cancel, out: &mut dyn Sink) -> Result<()>;
}

/// One run: the inputs, and which outputs are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The inputs, by their place in the signature.
    pub inputs: &'a Inputs,
    /// Places of the outputs wanted; not empty.
    pub outputs: &'a [usize],
}

/// Where outputs go. The view lives only during the call: encode it, or copy it.
pub trait Sink {
    /// Takes the output at `place` of the signature.
    fn output(&mut self, place: usize, value: ValueView<'_>) -> Result<()>;
}

/// A model's files, ready to be loaded.
#[derive(Clone, Debug)]
pub struct LoadedPackage {
    /// The file the engine opens; what it refers to lies beside it.
    pub path: PathBuf,
    /// What the model takes and gives.
    pub signature: Signature,
    /// Whether values, and not only shapes, decide how long a run takes (loops, sizes as inputs).
    pub data_dependent: bool,
    /// Why rows of a batch may reach each other, where an operator lets them.
    pub rows_meet: Option<&'static str>,
    /// An operator that ends the process where an input has no elements (recurrent ones of ONNX Runtime).
    pub wants_elements: Option<&'static str>,
}

/// How one model is run.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Threads for the parts of one run, at least 1; as many as the engine has where it is not said. So many runs at
    /// once are useful that they use the engine's threads together.
    pub threads: Option<usize>,
}

/// What a loaded model says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScorerLimits {
    /// How many runs at once still make it faster; at least 1.
    pub concurrency: usize,
    /// Whether equal shapes take about equal time. A run that is not steady never
    /// happens on a thread that has other work.
    pub steady: bool,
    /// Why rows along the first dimension may reach each other; `None` where the model's operators say nothing of it.
    pub rows_meet: Option<&'static str>,
}

/// Why this machine cannot do something, and what would help.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    /// What is missing.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}
