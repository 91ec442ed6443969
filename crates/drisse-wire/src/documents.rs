//! Documents about servers and models: what is asked once, off the scoring path.

use drisse_core::{DataType, Dim, Port, Signature, ValueType};
use serde_json::{Value, json};

/// `GET /v2`: the server's name, version and the protocol extensions it has.
pub fn server_metadata(version: &str) -> Value {
    json!({ "name": "drisse", "version": version, "extensions": [] })
}

/// `GET /v2/models/NAME`: what the model takes and gives, in V2's words.
pub fn model_metadata(name: &str, version: &str, platform: &str, signature: &Signature) -> Value {
    let tensors = |ports: &[Port]| ports.iter().map(tensor_metadata).collect::<Value>();
    json!({
        "name": name,
        "versions": [version],
        "platform": platform,
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
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
fn v2_tensor(kind: &ValueType) -> (DataType, Vec<i64>) {
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
