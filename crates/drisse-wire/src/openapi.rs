//! `/swagger.json`: the OpenAPI 3.0.3 document of a server, made from its models' signatures and samples.

mod versions;

use crate::documents::carried_outputs;
use crate::v2::carries;
use drisse_core::{DataType, Dim, Port, Signature, TensorType, ValueType};
use serde_json::{Map, Value, json};

pub use versions::{as_2, as_3_1};

/// A model to describe.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// The model's name, as in paths.
    pub name: &'a str,
    /// The model's inputs and outputs.
    pub signature: &'a Signature,
    /// A sample body for `/score`, if known.
    pub sample: Option<&'a str>,
}

/// Returns the document. A single model has the path `/score`; several models have `/score/NAME` each. `keys` is
/// whether requests need a key.
///
/// ```
/// use drisse_core::Signature;
/// use drisse_wire::openapi::{Described, as_2, document};
///
/// let signature = Signature { inputs: vec![], outputs: vec![] };
/// let model = Described { name: "digits", signature: &signature, sample: None };
/// let document = document("1.0", &[model], true);
/// assert_eq!(document["paths"]["/score"]["post"]["operationId"], "Score");
/// assert_eq!(as_2(document)["swagger"], "2.0");
/// ```
pub fn document(server_version: &str, models: &[Described<'_>], keys: bool) -> Value {
    let mut paths = Map::new();
    paths.insert(
        "/".to_owned(),
        json!({ "get": {
            "operationId": "ServiceHealthCheck",
            "summary": "Checks that the server is up",
            "security": [],
            "responses": { "200": { "description": "the server is up",
                "content": { "text/plain": { "schema": { "type": "string", "example": "Healthy" } } } } },
        }}),
    );
    for model in models {
        let path = if models.len() == 1 { "/score".to_owned() } else { format!("/score/{}", model.name) };
        paths.insert(path, score(model, models.len() == 1));
    }
    let mut document = json!({
        "openapi": "3.0.3",
        "info": {
            "title": models.first().filter(|_| models.len() == 1).map_or("drisse", |model| model.name),
            "description": "A scoring server. The same models answer the Open Inference Protocol under /v2.",
            "version": server_version,
        },
        "paths": paths,
        "components": { "schemas": { "Error": {
            "type": "object",
            "required": ["message"],
            "properties": { "message": { "type": "string" } },
        } } },
    });
    if keys {
        document["components"]["securitySchemes"] = json!({ "key": { "type": "http", "scheme": "bearer", "description": "one of the service's keys" } });
        document["security"] = json!([{ "key": [] }]);
    }
    document
}

/// Whether a schema has the lengths that the signature declares.
#[derive(Clone, Copy)]
enum Lengths {
    /// The declared lengths: inputs are checked against them.
    Declared,
    /// Any lengths: exporters often declare wrong lengths of outputs (LightGBM's `label` is `[1]` for any batch size).
    Any,
}

fn score(model: &Described<'_>, alone: bool) -> Value {
    let operation = if alone { "Score".to_owned() } else { format!("Score-{}", model.name) };
    let mut body = json!({ "schema": request_schema(model.signature) });
    let sample = model.sample.and_then(|sample| serde_json::from_str::<Value>(sample).ok());
    // A large sample, such as an image of zeros, would only make the document hard to read.
    if let Some(sample) = sample.filter(|_| model.sample.is_some_and(|text| text.len() <= 16 << 10)) {
        body["example"] = sample;
    }
    let mut responses = json!({ "200": {
        "description": answer_description(model.signature),
        "content": { "application/json": { "schema": answer_schema(model.signature) } },
    }});
    for (status, what) in [
        ("400", "the body cannot be read, or does not fit the model"),
        ("401", "the key is missing or wrong"),
        ("406", "an output has bytes that are not UTF-8, which JSON cannot carry"),
        ("413", "the body is over the limit"),
        ("415", "the content type is not JSON"),
        ("503", "too many requests are waiting, or the server is stopping; see Retry-After"),
        ("504", "the deadline passed"),
    ] {
        responses[status] = json!({
            "description": what,
            "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
        });
    }
    json!({ "post": {
        "operationId": operation,
        "summary": format!("Scores a request with the model {}", model.name),
        "requestBody": { "required": true, "content": { "application/json": body } },
        "responses": responses,
    }})
}

fn answer_description(signature: &Signature) -> String {
    let left_out = signature.outputs.iter().filter(|port| !carries(&port.kind));
    let left_out: Vec<_> = left_out.map(|port| format!("{} ({})", port.name, port.kind)).collect();
    let except = if left_out.is_empty() { "" } else { ", except those that JSON cannot carry: " };
    format!("one entry per output of the model{except}{}", left_out.join(", "))
}

fn request_schema(signature: &Signature) -> Value {
    let by_name = object(signature.inputs.iter(), Lengths::Declared);
    let data = match signature.only_input() {
        Some((_, port)) => json!({ "oneOf": [value_schema(&port.kind, Lengths::Declared), by_name] }),
        None => by_name,
    };
    json!({ "type": "object", "required": ["data"], "properties": { "data": data } })
}

fn answer_schema(signature: &Signature) -> Value {
    object(carried_outputs(signature), Lengths::Any)
}

fn object<'p>(ports: impl Iterator<Item = &'p Port> + Clone, lengths: Lengths) -> Value {
    let properties: Map<String, Value> =
        ports.clone().map(|port| (port.name.clone(), value_schema(&port.kind, lengths))).collect();
    let required: Vec<_> = ports.filter(|port| !port.optional).map(|port| &*port.name).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    // OpenAPI 3.0 does not allow an empty `required`.
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn value_schema(kind: &ValueType, lengths: Lengths) -> Value {
    match kind {
        ValueType::Tensor(tensor) => tensor_schema(tensor, lengths),
        ValueType::Sequence(of) => json!({ "type": "array", "items": value_schema(of, lengths) }),
        ValueType::Map { value, .. } => {
            json!({ "type": "object", "additionalProperties": value_schema(value, lengths) })
        }
        ValueType::Optional(of) => {
            let mut schema = value_schema(of, lengths);
            schema["nullable"] = json!(true);
            schema
        }
        ValueType::Other(what) => json!({ "description": what }),
    }
}

fn tensor_schema(tensor: &TensorType, lengths: Lengths) -> Value {
    let description = format!("{} {}", tensor.datatype, tensor.shape_text());
    let Some(dims) = &tensor.shape else { return json!({ "description": description }) };
    let mut schema = element_schema(tensor.datatype);
    for dim in dims.iter().rev() {
        schema = json!({ "type": "array", "items": schema });
        if let (Dim::Fixed(length), Lengths::Declared) = (dim, lengths) {
            schema["minItems"] = json!(length);
            schema["maxItems"] = json!(length);
        }
    }
    schema["description"] = json!(description);
    schema
}

fn element_schema(datatype: DataType) -> Value {
    match datatype {
        DataType::Bool => json!({ "type": "boolean" }),
        DataType::Bytes => json!({ "type": "string" }),
        DataType::Int64 => json!({ "type": "integer", "format": "int64" }),
        // `null` stands for NaN in requests and responses.
        DataType::Fp32 => json!({ "type": "number", "format": "float", "nullable": true }),
        DataType::Fp64 => json!({ "type": "number", "format": "double", "nullable": true }),
        datatype if datatype.is_float() => json!({ "type": "number", "nullable": true }),
        DataType::Uint8 => json!({ "type": "integer", "minimum": 0, "maximum": u8::MAX }),
        DataType::Int8 => json!({ "type": "integer", "minimum": i8::MIN, "maximum": i8::MAX }),
        DataType::Uint16 => json!({ "type": "integer", "minimum": 0, "maximum": u16::MAX }),
        DataType::Int16 => json!({ "type": "integer", "minimum": i16::MIN, "maximum": i16::MAX }),
        DataType::Uint32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        DataType::Int32 => json!({ "type": "integer", "format": "int32" }),
        DataType::Uint64 => json!({ "type": "integer", "minimum": 0 }),
        _ => json!({ "description": format!("{datatype}, which JSON cannot carry") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_have_the_declared_lengths_and_answers_promise_none() {
        let two = TensorType { datatype: DataType::Fp32, shape: Some(vec![Dim::Free(None), Dim::Fixed(2)]) };
        let port = |name: &str| Port {
            name: name.to_owned(),
            kind: ValueType::Tensor(two.clone()),
            optional: false,
        };
        let signature = Signature { inputs: vec![port("x")], outputs: vec![port("y")] };
        let document = document("1", &[Described { name: "m", signature: &signature, sample: None }], false);
        let post = &document["paths"]["/score"]["post"];
        let asked = &post["requestBody"]["content"]["application/json"]["schema"]["properties"]["data"];
        assert_eq!(asked["oneOf"][0]["items"]["minItems"], 2);
        let answered = &post["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["y"];
        let (items, what) = (&answered["items"], &answered["description"]);
        assert_eq!(
            (&items["type"], &items["minItems"], what),
            (&json!("array"), &Value::Null, &json!("FP32 [?, 2]"))
        );
    }
}
