//! Documents about servers and models: what is asked once, off the scoring path.

mod v1;

use drisse_core::{DataType, Dim, Port, Signature, ValueType};
use serde_json::{Value, json};

pub use v1::{v1_metadata, v1_models, v1_status};

/// What a document says of a model besides its signature.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The name in paths.
    pub name: &'a str,
    /// The version, as V2 prints it.
    pub version: &'a str,
    /// Engine and format, such as `onnxruntime_onnx`.
    pub platform: &'a str,
    /// What it takes and gives.
    pub signature: &'a Signature,
}

/// What a model has done since it was loaded. Durations are nanoseconds, of all of them together.
#[derive(Clone, Copy, Default, Debug)]
pub struct Statistics {
    /// When the last request was answered, in milliseconds since 1970.
    pub last_inference: u64,
    /// Requests answered, from head to answer.
    pub success: Duration,
    /// Requests that failed.
    pub fail: Duration,
    /// Waits for a worker.
    pub queue: Duration,
    /// Runs, for each request that shared one.
    pub compute: Duration,
    /// Encoding the outputs.
    pub encode: Duration,
    /// Runs, each counted once.
    pub runs: u64,
}

/// How many, and how long together.
#[derive(Clone, Copy, Default, Debug)]
pub struct Duration {
    /// How many.
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

/// `GET /v2`: the server's name, version and the protocol extensions it has.
pub fn server_metadata(version: &str, extensions: &[&str]) -> Value {
    json!({ "name": "drisse", "version": version, "extensions": extensions })
}

/// `GET /v2/health/live` of a server that lives.
///
/// Source: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md>
pub const LIVE: &str = r#"{"live":true}"#;

/// `GET /v2/health/ready` of one that is ready: the specification's `live`, and `ready` as KServe's client reads it.
pub const READY: &str = r#"{"live":true,"ready":true}"#;

/// `GET /v2/models/NAME/ready` of a model that is.
pub fn model_ready(name: &str) -> Value {
    json!({ "name": name, "ready": true })
}

/// The extensions of V2 that every server has, by Triton's names for them.
pub const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "classification", "model_configuration", "statistics"];

/// The one of servers that let their clients load and unload models.
pub const MODEL_REPOSITORY: &str = "model_repository";

/// The one of servers that let their clients pass tensors by shared memory.
pub const SHARED_MEMORY: &str = "system_shared_memory";

/// `GET /v2/models/NAME`: what the model takes and gives, in V2's words.
pub fn model_metadata(model: Model<'_>) -> Value {
    let tensors = |ports: &[Port]| ports.iter().map(tensor_metadata).collect::<Value>();
    json!({
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": tensors(&model.signature.inputs),
        "outputs": tensors(&model.signature.outputs),
    })
}

fn tensor_metadata(port: &Port) -> Value {
    let (datatype, shape) = v2_tensor(&port.kind);
    let mut document = json!({ "name": port.name, "datatype": datatype.name(), "shape": shape });
    if port.optional {
        document["parameters"] = json!({ "optional": true });
    }
    document
}

/// The tensor V2 carries a value as: itself, or a table of the values of maps with equal keys.
pub fn v2_tensor(kind: &ValueType) -> (DataType, Vec<i64>) {
    match kind {
        ValueType::Tensor(tensor) => {
            let dim = |dim: &Dim| if let Dim::Fixed(length) = dim { *length } else { -1 };
            // V2 has no word for "any number of dimensions".
            let shape = tensor.shape.as_ref().map_or(vec![-1], |dims| dims.iter().map(dim).collect());
            (tensor.datatype, shape)
        }
        ValueType::Optional(inner) => v2_tensor(inner),
        ValueType::Sequence(inner) => {
            let (datatype, mut shape) = v2_tensor(inner);
            shape.insert(0, -1);
            (datatype, shape)
        }
        // One value per key.
        ValueType::Map { value: inner, .. } => (v2_tensor(inner).0, vec![-1]),
        ValueType::Other(_) => (DataType::Bytes, vec![-1]),
    }
}

/// `GET /v2/models/NAME/config`: Triton's `ModelConfig` in its JSON form, of a model without a batch dimension of
/// the server's own (`max_batch_size` 0: shapes are whole).
///
/// Source: <https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto>
pub fn model_config(model: Model<'_>) -> Value {
    let ports = |ports: &[Port], input: bool| -> Value {
        ports
            .iter()
            .map(|port| {
                let (datatype, dims) = v2_tensor(&port.kind);
                let mut document =
                    json!({ "name": port.name, "data_type": config_type(datatype), "dims": dims });
                if input {
                    document["optional"] = json!(port.optional);
                }
                document
            })
            .collect()
    };
    json!({
        "name": model.name,
        "platform": model.platform,
        "backend": model.platform.split('_').next().unwrap_or_default(),
        "version_policy": { "latest": { "num_versions": 1 } },
        "max_batch_size": 0,
        "input": ports(&model.signature.inputs, true),
        "output": ports(&model.signature.outputs, false),
        "default_model_filename": "model.onnx",
    })
}

/// `TYPE_FP32`; Triton calls V2's `BYTES` a string.
fn config_type(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    }
}

/// `GET /v2/models/stats`, or one model's: Triton's statistics extension. One run serves one request, so both counts
/// are those of the requests that were answered.
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
