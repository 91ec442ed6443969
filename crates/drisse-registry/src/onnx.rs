//! The inspector: reads the contents of an ONNX file as a stream and skips its weights.
//!
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3>.

mod external;
mod model;
mod protobuf;
mod rows;

pub use external::ExternalFile;

use crate::links::Links;
use crate::{InspectError, sniff};
use drisse_core::{LoadedPackage, ModelTraits, Signature};
use protobuf::Fault;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The contents of an ONNX file, without its weights.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// The file's size in bytes, without external data.
    pub size: u64,
    /// The version of the ONNX format (`ir_version`).
    pub ir_version: u64,
    /// The name of the program that wrote the file.
    pub producer: String,
    /// The version of that program.
    pub producer_version: String,
    /// The framework the producer converts from; `None` if the producer is not known.
    pub framework: Option<&'static str>,
    /// The model's namespace.
    pub domain: String,
    /// The version the author gave the model.
    pub model_version: u64,
    /// The author's description of the model, at most 4 KiB.
    pub description: String,
    /// The graph's name.
    pub graph: String,
    /// Operator set versions by domain; the default domain is `ai.onnx`.
    pub opsets: BTreeMap<String, u64>,
    /// The model's inputs and outputs.
    pub signature: Signature,
    /// How often each operator occurs, including in functions and subgraphs.
    pub operators: BTreeMap<String, u64>,
    /// Number of elements of all initializers.
    pub parameters: u64,
    /// Size in bytes of all tensors stored in the file itself.
    pub weight_bytes: u64,
    /// Files beside the model that hold tensors.
    pub external_data: Vec<ExternalFile>,
    /// The author's metadata, each value at most 4 KiB.
    pub metadata: BTreeMap<String, String>,
    /// Facts about the model's runs.
    pub traits: ModelTraits,
}

/// The format of the model files, as ModelPack names it.
pub(crate) const FORMAT: &str = "onnx";

/// Operators that crash the process if they get no elements, in ONNX Runtime 1.17 to 1.32: it divides the batch among its
/// threads.
const REQUIRE_ELEMENTS: [&str; 3] = ["LSTM", "GRU", "com.microsoft.DynamicQuantizeLSTM"];

impl Inspection {
    /// Returns what an engine loads.
    pub fn package(&self) -> LoadedPackage {
        let (path, signature, traits) = (self.path.clone(), self.signature.clone(), self.traits);
        LoadedPackage { path, signature, traits }
    }
}

/// Inspects the ONNX file at `path`. External data files are checked to exist but not read.
///
/// # Errors
///
/// Returns [`InspectError::NotOnnx`] with a conversion hint if the file has another format, and another
/// [`InspectError`] if it is unreadable, truncated or corrupt, or if its external data is missing or refused.
///
/// ```
/// let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/digits/digits.onnx");
/// let inspection = drisse_registry::inspect(file.as_ref())?;
/// assert!(inspection.parameters > 0);
/// assert!(inspection.opsets.contains_key("ai.onnx"));
/// # Ok::<(), drisse_registry::InspectError>(())
/// ```
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    inspect_with(path, &Links::of(path, false)?)
}

/// Does the same as [`inspect`], and follows these links.
pub(crate) fn inspect_with(path: &Path, links: &Links) -> Result<Inspection, InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    // Checked before the file is opened: opening a pipe blocks until another process writes to it.
    let kind = std::fs::metadata(path).map_err(io)?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "a folder" } else { "a device or a pipe" }.to_owned();
        let hint = "name a model file".to_owned();
        return Err(InspectError::NotOnnx { path: path.to_owned(), what, hint });
    }
    let file = links.open(path)?.file;
    let size = file.metadata().map_err(io)?.len();
    if let Some((what, hint)) = sniff::other_format(&file, path).map_err(io)? {
        return Err(InspectError::NotOnnx { path: path.to_owned(), what, hint });
    }
    let mut inspection = Inspection { path: path.to_owned(), size, ..Inspection::default() };
    let locations = model::read(file, size, &mut inspection).map_err(|fault| match fault {
        Fault::Io(source) => io(source),
        Fault::Truncated { wants } => InspectError::Truncated { path: path.to_owned(), has: size, wants },
        Fault::Corrupt { at, what } => InspectError::Corrupt { path: path.to_owned(), at, what },
    })?;
    if inspection.ir_version == 0 && inspection.operators.is_empty() {
        let what = "in a format that Drisse does not know".to_owned();
        let hint = "convert it to ONNX with the exporter of the framework it comes from".to_owned();
        return Err(InspectError::NotOnnx { path: path.to_owned(), what, hint });
    }
    if inspection.signature.outputs.is_empty() {
        let what = "its graph has no outputs".to_owned();
        return Err(InspectError::Corrupt { path: path.to_owned(), at: size, what });
    }
    inspection.traits.requires_elements =
        REQUIRE_ELEMENTS.into_iter().find(|operator| inspection.operators.contains_key(*operator));
    inspection.framework = framework(&inspection.producer);
    inspection.external_data = external::check(path, locations, links)?;
    Ok(inspection)
}

fn framework(producer: &str) -> Option<&'static str> {
    const PRODUCERS: [(&str, &str); 14] = [
        ("pytorch", "PyTorch"),
        ("torch", "PyTorch"),
        ("skl2onnx", "scikit-learn"),
        ("onnxmltools", "LightGBM, XGBoost or another tree library (onnxmltools)"),
        ("lightgbm", "LightGBM"),
        ("xgboost", "XGBoost"),
        ("catboost", "CatBoost"),
        ("tf2onnx", "TensorFlow"),
        ("keras", "Keras"),
        ("jax", "JAX"),
        ("paddle", "PaddlePaddle"),
        ("mxnet", "MXNet"),
        ("cntk", "CNTK"),
        ("onnx.quantize", "ONNX Runtime quantizer"),
    ];
    let producer = producer.to_lowercase();
    PRODUCERS.iter().find(|(prefix, _)| producer.starts_with(prefix)).map(|(_, framework)| *framework)
}

#[cfg(test)]
mod tests;
