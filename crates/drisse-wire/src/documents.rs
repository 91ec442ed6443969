//! JSON documents about servers and models: metadata, readiness, configuration and statistics.

mod v1;

use crate::v2::{carries, properties};
use drisse_core::{DataType, Dim, Port, Signature, ValueType};
use serde_json::{Value, json};

pub use v1::{v1_metadata, v1_models, v1_status};

/// A model as the documents describe it.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The name in paths.
    pub name: &'a str,
    /// The version, as V2 prints it.
    pub version: &'a str,
    /// Engine and format, such as `onnxruntime_onnx`.
    pub platform: &'a str,
    /// Its inputs and outputs.
    pub signature: &'a Signature,
}

/// Counters of a model since it was loaded. Each duration is a sum over all events counted.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// When the last request was answered, in milliseconds since 1970.
    pub last_inference: u64,
    /// Requests that succeeded, from the request's headers to its response.
    pub success: Duration,
    /// Requests that failed.
    pub fail: Duration,
    /// Time in the queue, before a worker takes the request.
    pub queue: Duration,
    /// Runs of the model; a run that several requests share counts once for each of them.
    pub compute: Duration,
    /// Encoding of the outputs.
    pub encode: Duration,
    /// Runs of the model; a run that several requests share counts once.
    pub runs: u64,
}

/// A number of events and their total duration.
#[derive(Clone, Copy, Default, Debug)]
pub struct Duration {
    /// The number of events.
    pub count: u64,
    /// Their total duration in nanoseconds.
    pub ns: u64,
}

/// Returns the document of `GET /v2`: the server's name, version and protocol extensions.
pub fn server_metadata(version: &str, extensions: &[&str]) -> Value {
    json!({ "name": "drisse", "version": version, "extensions": extensions })
}

/// The document of `GET /v2/health/live` if the server is live.
///
/// Source: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md>
pub const LIVE: &str = r#"{"live":true}"#;

/// The document of `GET /v2/health/ready` if the server is ready: `live` as in the specification, and `ready`, which
/// KServe's client reads.
pub const READY: &str = r#"{"live":true,"ready":true}"#;

/// Returns the document of `GET /v2/models/NAME/ready` for a model that is ready.
pub fn model_ready(name: &str) -> Value {
    json!({ "name": name, "ready": true })
}

/// The extensions of V2 that every server has, by their Triton names.
pub const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "classification", "model_configuration", "statistics"];

/// The extension of servers that let clients load and unload models.
pub const MODEL_REPOSITORY: &str = "model_repository";

/// The extension of servers that let clients pass tensors in shared memory.
pub const SHARED_MEMORY: &str = "system_shared_memory";

/// Returns the document of `GET /v2/models/NAME`: the model's inputs, and the outputs that V2 carries, with V2's datatypes
/// and shapes. A dimension of -1 has any length. `versions` are all that are served.
pub fn model_metadata<'a>(model: Model<'_>, versions: impl Iterator<Item = &'a str>) -> Value {
    let mut document = json!({
        "name": model.name,
        "versions": versions.collect::<Value>(),
        "platform": model.platform,
        "inputs": model.signature.inputs.iter().map(tensor_metadata).collect::<Value>(),
        "outputs": carried_outputs(model.signature).map(tensor_metadata).collect::<Value>(),
    });
    let properties = properties(model.signature);
    if !properties.is_empty() {
        document["properties"] = json!(properties);
    }
    document
}

/// Iterates over the outputs that are answered: those that tensors can stand for, on every protocol.
pub(crate) fn carried_outputs(signature: &Signature) -> impl Iterator<Item = &Port> + Clone {
    signature.outputs.iter().filter(|port| carries(&port.kind))
}

fn tensor_metadata(port: &Port) -> Value {
    let (datatype, shape) = v2_tensor(&port.kind);
    let mut document = json!({ "name": port.name, "datatype": datatype.name(), "shape": shape });
    if port.optional {
        document["parameters"] = json!({ "optional": true });
    }
    document
}

/// Returns the datatype and shape of the tensor that represents a value in V2. A sequence of maps becomes a table with
/// one row per map and one column per key.
pub fn v2_tensor(kind: &ValueType) -> (DataType, Vec<i64>) {
    match kind {
        ValueType::Tensor(tensor) => {
            let dim = |dim: &Dim| if let Dim::Fixed(length) = dim { *length } else { -1 };
            // V2 cannot say "any number of dimensions".
            let shape = tensor.shape.as_ref().map_or(vec![-1], |dims| dims.iter().map(dim).collect());
            (tensor.datatype, shape)
        }
        ValueType::Optional(inner) => v2_tensor(inner),
        ValueType::Sequence(inner) => {
            let (datatype, mut shape) = v2_tensor(inner);
            shape.insert(0, -1);
            (datatype, shape)
        }
        // One element per key.
        ValueType::Map { value: inner, .. } => (v2_tensor(inner).0, vec![-1]),
        ValueType::Other(_) => (DataType::Bytes, vec![-1]),
    }
}

/// Returns whether that tensor may have any number of dimensions.
pub(crate) fn has_any_rank(kind: &ValueType) -> bool {
    match kind {
        ValueType::Tensor(tensor) => tensor.shape.is_none(),
        ValueType::Optional(inner) | ValueType::Sequence(inner) => has_any_rank(inner),
        ValueType::Map { .. } | ValueType::Other(_) => false,
    }
}

/// Returns the document of `GET /v2/models/NAME/config`: Triton's `ModelConfig` as JSON, with the keys that Triton prints
/// for their defaults. `max_batch_size` is 0, which says that the shapes include the batch dimension.
///
/// Source: <https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto>
pub fn model_config(model: Model<'_>) -> Value {
    let ports = |ports: &mut dyn Iterator<Item = &Port>, input: bool| -> Value {
        ports
            .map(|port| {
                let (datatype, dims) = v2_tensor(&port.kind);
                let mut document = json!({
                    "name": port.name,
                    "data_type": config_type(datatype),
                    "dims": dims,
                    "is_shape_tensor": false,
                    "is_non_linear_format_io": false,
                });
                if input {
                    document["format"] = json!("FORMAT_NONE");
                    document["allow_ragged_batch"] = json!(false);
                    document["optional"] = json!(port.optional);
                } else {
                    document["label_filename"] = json!("");
                }
                document
            })
            .collect()
    };
    json!({
        "name": model.name,
        "platform": model.platform,
        "backend": model.platform.split('_').next().unwrap_or_default(),
        "runtime": "",
        "version_policy": { "latest": { "num_versions": 1 } },
        "max_batch_size": 0,
        "input": ports(&mut model.signature.inputs.iter(), true),
        "output": ports(&mut carried_outputs(model.signature), false),
        "batch_input": [],
        "batch_output": [],
        "optimization": {
            "priority": "PRIORITY_DEFAULT",
            "input_pinned_memory": { "enable": true },
            "output_pinned_memory": { "enable": true },
            "gather_kernel_buffer_threshold": 0,
            "eager_batching": false,
        },
        "instance_group": [],
        "default_model_filename": "model.onnx",
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
    })
}

/// Triton's name of a datatype, such as `TYPE_FP32`; V2's `BYTES` is `TYPE_STRING`.
fn config_type(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    }
}

/// Returns the document of `GET /v2/models/stats`, or of one model's statistics (Triton's extension). `inference_count`
/// counts requests that succeeded; `execution_count` counts runs, which several requests may share.
///
/// Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md>
pub fn statistics<'a>(models: impl IntoIterator<Item = (Model<'a>, Statistics)>) -> Value {
    let duration = |duration: Duration| json!({ "count": duration.count, "ns": duration.ns });
    let one = |(model, all): (Model<'a>, Statistics)| {
        let none = duration(Duration::default());
        json!({
            "name": model.name,
            "version": model.version,
            "last_inference": all.last_inference,
            "inference_count": all.success.count,
            "execution_count": all.runs,
            "inference_stats": {
                "success": duration(all.success),
                "fail": duration(all.fail),
                "queue": duration(all.queue),
                "compute_input": none,
                "compute_infer": duration(all.compute),
                "compute_output": duration(all.encode),
                "cache_hit": none,
                "cache_miss": none,
            },
            "response_stats": {},
            "batch_stats": [],
            "memory_usage": [],
        })
    };
    json!({ "model_stats": models.into_iter().map(one).collect::<Value>() })
}
