//! The models that the cases use, as ONNX files of a few hundred bytes: the identity of each datatype, and the sum and
//! the difference of two tensors.

use crate::tensors::Datatype;
use prost::Message;
use std::sync::LazyLock;

/// The names of the models, under which a server must serve them.
pub static MODELS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let identities = Datatype::all().keys().map(|name| format!("identity-{}", name.to_lowercase()));
    identities.chain(["add-sub".to_owned()]).collect()
});

/// The version of ONNX's operator set; old enough for every server.
const OPSET: i64 = 13;
/// The version of ONNX's file format that matches [`OPSET`].
const IR_VERSION: i64 = 8;
const INT32: i32 = 6;

/// Returns the ONNX file of one of [`MODELS`]; `None` for any other name.
///
/// ```
/// assert!(drisse_conformance::model("add-sub").is_some());
/// assert!(drisse_conformance::model("resnet").is_none());
/// ```
pub fn model(name: &str) -> Option<Vec<u8>> {
    let graph = if name == "add-sub" {
        let port = |name| Port::new(name, INT32, 4);
        Graph {
            nodes: vec![node("Add", &["a", "b"], "sum"), node("Sub", &["a", "b"], "difference")],
            name: name.to_owned(),
            inputs: vec![port("a"), port("b")],
            outputs: vec![port("sum"), port("difference")],
        }
    } else {
        let datatype = name.strip_prefix("identity-")?.to_uppercase();
        let kind = Datatype::all().get(&datatype)?.onnx;
        Graph {
            nodes: vec![node("Identity", &["x"], "y")],
            name: name.to_owned(),
            inputs: vec![Port::new("x", kind, 2)],
            outputs: vec![Port::new("y", kind, 2)],
        }
    };
    let model = Model {
        ir_version: IR_VERSION,
        producer: "drisse".to_owned(),
        graph: Some(graph),
        opsets: vec![Opset { version: OPSET }],
    };
    Some(model.encode_to_vec())
}

fn node(operator: &str, inputs: &[&str], output: &str) -> Node {
    Node {
        inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
        outputs: vec![output.to_owned()],
        operator: operator.to_owned(),
    }
}

// The fields of ONNX's messages that these models need; field numbers as in
// <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opsets: Vec<Opset>,
}

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Port>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Port>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    outputs: Vec<String>,
    #[prost(string, tag = "4")]
    operator: String,
}

#[derive(Clone, PartialEq, Message)]
struct Port {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
struct Kind {
    #[prost(message, optional, tag = "1")]
    tensor: Option<Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dimensions: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    parameter: Option<String>,
}

impl Port {
    /// Returns an input or output of any number of rows.
    fn new(name: &str, element: i32, columns: i64) -> Self {
        let rows = Dimension { value: None, parameter: Some("rows".to_owned()) };
        let columns = Dimension { value: Some(columns), parameter: None };
        let shape = Some(Shape { dimensions: vec![rows, columns] });
        Self { name: name.to_owned(), kind: Some(Kind { tensor: Some(Tensor { element, shape }) }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_model_is_a_few_hundred_bytes() {
        assert_eq!(MODELS.len(), 15);
        for name in MODELS.iter() {
            assert!(model(name).is_some_and(|file| file.len() < 300), "{name}");
        }
        assert_eq!(model("identity-nothing"), None);
    }
}
