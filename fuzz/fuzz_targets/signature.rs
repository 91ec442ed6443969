//! Signatures for the decoders, and the check that every decoded request must pass.

use drisse_core::{Data, DataType, Inputs, Port, Signature, TensorType, ValueType, element_count};

fn port(name: String, datatype: DataType) -> Port {
    Port { name, kind: ValueType::Tensor(TensorType { datatype, shape: None }), optional: true }
}

/// A signature with one input per datatype, named after it (`BOOL`, `FP32`, …), of any shape.
pub fn every_datatype() -> Signature {
    let ports =
        || DataType::ALL.into_iter().map(|datatype| port(datatype.name().to_owned(), datatype)).collect();
    Signature { inputs: ports(), outputs: ports() }
}

/// A signature with one FP32 input `X` of any shape.
pub fn one_input() -> Signature {
    let x = || vec![port("X".to_owned(), DataType::Fp32)];
    Signature { inputs: x(), outputs: x() }
}

/// Checks that every tensor has as many elements as its shape says, which the engine relies on.
pub fn consistent(inputs: &Inputs) {
    for (_, tensor) in inputs.given() {
        let elements = element_count(&tensor.shape).expect("a decoded shape has a size");
        match &tensor.data {
            Data::Raw(buffer) => assert_eq!(Some(buffer.len()), tensor.datatype.byte_size(elements)),
            Data::Strings(strings) => assert_eq!(strings.len(), elements),
        }
    }
}
