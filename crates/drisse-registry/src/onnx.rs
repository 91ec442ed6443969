//! The inspector: what an ONNX file holds, read as a stream without its weights.
//!
//! Field numbers: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3>.

mod external;
mod model;
mod protobuf;
mod rows;

pub use external::ExternalFile;

use crate::{InspectError, sniff};
use drisse_core::{LoadedPackage, Signature};
use protobuf::Fault;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What an ONNX file holds.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// The file.
    pub path: PathBuf,
    /// Its bytes, without external data.
    pub size: u64,
    /// The version of ONNX's own format.
    pub ir_version: u64,
    /// The program that wrote it, as it calls itself.
    pub producer: String,
    /// That program's version.
    pub producer_version: String,
    /// The framework the producer converts from, where it is known.
    pub framework: Option<&'static str>,
    /// The model's namespace.
    pub domain: String,
    /// The version its author gave it.
    pub model_version: u64,
    /// What its author wrote about it, the first 4 KiB.
    pub description: String,
    /// The graph's name.
    pub graph: String,
    /// Operator sets by domain; `ai.onnx` is ONNX's own.
    pub opsets: BTreeMap<String, u64>,
    /// What it takes and gives.
    pub signature: Signature,
    /// How often each operator occurs, functions and subgraphs included.
    pub operators: BTreeMap<String, u64>,
    /// Elements of all initializers.
    pub parameters: u64,
    /// Bytes of all tensors stored in the file itself.
    pub weight_bytes: u64,
    /// Files beside the model that hold tensors.
    pub external_data: Vec<ExternalFile>,
    /// What its author attached, each value's first 4 KiB.
    pub metadata: BTreeMap<String, String>,
    /// Whether values, and not only shapes, decide how long a run takes: loops, branches, sizes as inputs.
    pub data_dependent: bool,
    /// Why rows of a batch may reach each other, where an operator lets them.
    pub rows_meet: Option<&'static str>,
}

/// Operators that end the process where they get no elements, in ONNX Runtime 1.17 to 1.32: it divides the batch among
/// its threads.
const WANT_ELEMENTS: [&str; 3] = ["LSTM", "GRU", "com.microsoft.DynamicQuantizeLSTM"];

impl Inspection {
    /// What an engine loads.
    pub fn package(&self) -> LoadedPackage {
        LoadedPackage {
            path: self.path.clone(),
            signature: self.signature.clone(),
            data_dependent: self.data_dependent,
            rows_meet: self.rows_meet,
            wants_elements: WANT_ELEMENTS.into_iter().find(|operator| self.operators.contains_key(*operator)),
        }
    }
}

/// Reads what `path` holds. Files it refers to are checked for being there, not read.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    // Looked at before it is opened: opening a pipe waits for somebody to write.
    let kind = std::fs::metadata(path).map_err(io)?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "a folder" } else { "a device or a pipe" }.to_owned();
        let hint = "name a model file".to_owned();
        return Err(InspectError::NotOnnx { path: path.to_owned(), what, hint });
    }
    let file = crate::digest::open(path).map_err(io)?;
    let size = kind.len();
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
        let what = "in a format Drisse does not know".to_owned();
        let hint = "convert it to ONNX with the exporter of the framework it comes from".to_owned();
        return Err(InspectError::NotOnnx { path: path.to_owned(), what, hint });
    }
    if inspection.signature.outputs.is_empty() {
        let what = "its graph has no outputs".to_owned();
        return Err(InspectError::Corrupt { path: path.to_owned(), at: size, what });
    }
    inspection.framework = framework(&inspection.producer);
    inspection.external_data = external::check(path, locations)?;
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
