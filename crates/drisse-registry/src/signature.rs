//! A model's signature (its inputs and outputs) as a JSON document, and back.

use drisse_core::{DataType, Dim, Port, Signature, TensorType, ValueType};
use serde_json::{Value, json};

/// Encodes a signature as the JSON document that packages, the workspace's database and `--output json` use.
///
/// A port has `name`, `kind` and, for tensors, `datatype` and `shape` (`null` if unknown; a free dimension is its
/// name or `"?"`). [`signature_of`] reads the document back.
pub fn signature_document(signature: &Signature) -> Value {
    let ports = |ports: &[Port]| {
        let port = |port: &Port| {
            let mut document = json!({ "name": port.name });
            describe(&port.kind, &mut document);
            if port.optional {
                document["optional"] = json!(true);
            }
            document
        };
        ports.iter().map(port).collect::<Value>()
    };
    json!({ "inputs": ports(&signature.inputs), "outputs": ports(&signature.outputs) })
}

fn describe(kind: &ValueType, document: &mut Value) {
    match kind {
        ValueType::Tensor(tensor) => {
            document["kind"] = json!("tensor");
            document["datatype"] = json!(tensor.datatype.name());
            document["shape"] = tensor.shape.as_ref().map_or(Value::Null, |dims| {
                let dim = |dim: &Dim| match dim {
                    Dim::Fixed(length) => json!(length),
                    Dim::Free(name) => json!(name.as_deref().unwrap_or("?")),
                };
                dims.iter().map(dim).collect()
            });
        }
        ValueType::Sequence(of) => {
            document["kind"] = json!("sequence");
            document["of"] = nested(of);
        }
        ValueType::Optional(of) => {
            document["kind"] = json!("optional");
            document["of"] = nested(of);
        }
        ValueType::Map { key, value } => {
            document["kind"] = json!("map");
            document["key"] = json!(key.name());
            document["value"] = nested(value);
        }
        ValueType::Other(what) => document["kind"] = json!(what),
    }
}

fn nested(kind: &ValueType) -> Value {
    let mut document = json!({});
    describe(kind, &mut document);
    document
}

/// Decodes a document written by [`signature_document`]; `None` if it does not have that form.
pub fn signature_of(document: &Value) -> Option<Signature> {
    let ports = |key: &str| document.get(key)?.as_array()?.iter().map(port).collect::<Option<Vec<_>>>();
    Some(Signature { inputs: ports("inputs")?, outputs: ports("outputs")? })
}

fn port(document: &Value) -> Option<Port> {
    Some(Port {
        name: document.get("name")?.as_str()?.to_owned(),
        kind: kind(document)?,
        optional: document.get("optional").and_then(Value::as_bool).unwrap_or(false),
    })
}

fn kind(document: &Value) -> Option<ValueType> {
    let datatype = |key: &str| DataType::parse(document.get(key)?.as_str()?);
    let inner = |key: &str| kind(document.get(key)?).map(Box::new);
    Some(match document.get("kind")?.as_str()? {
        "tensor" => {
            let dim = |dim: &Value| match dim {
                Value::String(name) => Some(Dim::Free(Some(name.clone()).filter(|name| name != "?"))),
                length => length.as_i64().map(Dim::Fixed),
            };
            let shape = match document.get("shape")? {
                Value::Null => None,
                shape => Some(shape.as_array()?.iter().map(dim).collect::<Option<_>>()?),
            };
            ValueType::Tensor(TensorType { datatype: datatype("datatype")?, shape })
        }
        "sequence" => ValueType::Sequence(inner("of")?),
        "optional" => ValueType::Optional(inner("of")?),
        "map" => ValueType::Map { key: datatype("key")?, value: inner("value")? },
        other => ValueType::Other(other.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let tensor = |shape| ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape });
        let map = ValueType::Map { key: DataType::Int64, value: Box::new(tensor(None)) };
        let port = |kind, optional| Port { name: "x".to_owned(), kind, optional };
        let signature = Signature {
            inputs: vec![
                port(tensor(Some(vec![Dim::Free(Some("n".into())), Dim::Free(None), Dim::Fixed(3)])), true),
                port(ValueType::Optional(Box::new(tensor(None))), false),
            ],
            outputs: vec![
                port(ValueType::Sequence(Box::new(map)), false),
                port(ValueType::Other("sparse tensor".to_owned()), false),
            ],
        };
        assert_eq!(signature_of(&signature_document(&signature)), Some(signature));
        assert_eq!(signature_of(&json!({ "inputs": [{ "name": 1 }], "outputs": [] })), None);
    }
}
