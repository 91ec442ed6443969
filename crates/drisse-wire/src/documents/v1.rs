//! Documents about models under `/v1`. Where KServe and TensorFlow Serving both define one, the object has the members
//! of both.

use super::{Model, carried_outputs, has_any_rank, v2_tensor};
use drisse_core::{DataType, Port};
use serde_json::{Map, Value, json};

/// Returns the document of `GET /v1/models`: the names of the models.
pub fn v1_models<'a>(names: impl IntoIterator<Item = &'a str>) -> Value {
    json!({ "models": names.into_iter().collect::<Vec<_>>() })
}

/// Returns the document of `GET /v1/models/NAME` for a model of which these versions are ready: KServe's `name` and
/// `ready`, and TensorFlow Serving's `model_version_status`.
pub fn v1_status<'a>(name: &str, versions: impl Iterator<Item = &'a str>) -> Value {
    let status = |version| {
        let status = json!({ "error_code": "OK", "error_message": "" });
        json!({ "version": version, "state": "AVAILABLE", "status": status })
    };
    json!({ "name": name, "ready": true, "model_version_status": versions.map(status).collect::<Value>() })
}

/// Returns the document of `GET /v1/models/NAME/metadata`: the model's signature, as TensorFlow Serving's protobuf
/// messages in JSON.
///
/// Source: <https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/get_model_metadata.proto>
pub fn v1_metadata(model: Model<'_>) -> Value {
    let named = |port: &Port| (port.name.clone(), tensor_info(port));
    json!({
        "model_spec": { "name": model.name, "signature_name": "", "version": model.version },
        "metadata": { "signature_def": { "signature_def": { "serving_default": {
            "inputs": model.signature.inputs.iter().map(named).collect::<Map<_, _>>(),
            "outputs": carried_outputs(model.signature).map(named).collect::<Map<_, _>>(),
            "method_name": "tensorflow/serving/predict",
        } } } },
    })
}

fn tensor_info(port: &Port) -> Value {
    let (datatype, shape) = v2_tensor(&port.kind);
    let unknown = has_any_rank(&port.kind);
    let dims = if unknown { Vec::new() } else { shape };
    // 64-bit numbers are strings in protobuf's JSON.
    let dims: Vec<_> = dims.iter().map(|size| json!({ "size": size.to_string(), "name": "" })).collect();
    json!({
        "dtype": tensorflow_type(datatype),
        "tensor_shape": { "dim": dims, "unknown_rank": unknown },
        "name": port.name,
    })
}

/// TensorFlow's name of a datatype (`tensorflow/core/framework/types.proto`).
fn tensorflow_type(datatype: DataType) -> &'static str {
    match datatype {
        DataType::Bool => "DT_BOOL",
        DataType::Uint8 => "DT_UINT8",
        DataType::Uint16 => "DT_UINT16",
        DataType::Uint32 => "DT_UINT32",
        DataType::Uint64 => "DT_UINT64",
        DataType::Int8 => "DT_INT8",
        DataType::Int16 => "DT_INT16",
        DataType::Int32 => "DT_INT32",
        DataType::Int64 => "DT_INT64",
        DataType::Fp16 => "DT_HALF",
        DataType::Bf16 => "DT_BFLOAT16",
        DataType::Fp32 => "DT_FLOAT",
        DataType::Fp64 => "DT_DOUBLE",
        DataType::Bytes => "DT_STRING",
        DataType::Complex64 => "DT_COMPLEX64",
        DataType::Complex128 => "DT_COMPLEX128",
        _ => "DT_INVALID",
    }
}
