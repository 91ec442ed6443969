//! The tensors that stand for sequences, maps and optional values in V2 and in TensorFlow Serving's gRPC, which carry only
//! tensors, and the names of outputs and of the elements of sequences.

use crate::documents::v2_tensor;
use drisse_core::{
    Data, Error, ErrorKind, Port, Result, Shape, Signature, Tensor, TensorView, Value, ValueType, ValueView,
};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An output, or an element of one that is a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Wanted {
    /// The output's index in the signature.
    pub index: usize,
    /// The element's place in the sequence; `None` is the whole output.
    pub element: Option<usize>,
}

/// Returns whether values of this type can be carried: sequences, maps and optional values as tensors.
pub(crate) fn carries(kind: &ValueType) -> bool {
    match kind {
        ValueType::Tensor(tensor) => tensor.datatype.has_json_form(),
        ValueType::Optional(of) | ValueType::Sequence(of) | ValueType::Map { value: of, .. } => carries(of),
        ValueType::Other(_) => false,
    }
}

/// Returns the type of a sequence's elements; `None` for any other type.
fn elements(kind: &ValueType) -> Option<&ValueType> {
    match kind {
        ValueType::Sequence(of) => Some(of),
        ValueType::Optional(of) => elements(of),
        _ => None,
    }
}

/// Returns what metadata says of outputs beside the list of those that are answered: the names of those that cannot be
/// carried, and the names of the elements of sequences.
pub(crate) fn properties(signature: &Signature) -> BTreeMap<&'static str, String> {
    let names = |wanted: &dyn Fn(&Port) -> Option<String>| {
        signature.outputs.iter().filter_map(wanted).collect::<Vec<_>>().join(", ")
    };
    let not_carried = names(&|port| (!carries(&port.kind)).then(|| port.name.clone()));
    let elements =
        names(&|port| elements(&port.kind).filter(|of| carries(of)).map(|_| format!("{}.N", port.name)));
    let properties = [("outputs_not_carried", not_carried), ("elements_of_sequences", elements)];
    properties.into_iter().filter(|(_, names)| !names.is_empty()).collect()
}

/// Returns the outputs of a request that names none: all that can be carried, as each protocol's metadata lists them. If
/// none can, it is all of them, whose error says why.
pub fn all_outputs(signature: &Signature) -> Vec<usize> {
    let all = 0..signature.outputs.len();
    let mut outputs = Vec::with_capacity(all.len());
    outputs.extend(all.clone().filter(|&index| carries(&signature.outputs[index].kind)));
    if outputs.is_empty() {
        outputs.extend(all);
    }
    outputs
}

/// Returns the index of each output, once.
pub(crate) fn indexes(wanted: impl ExactSizeIterator<Item = Wanted>) -> Vec<usize> {
    let mut indexes = Vec::with_capacity(wanted.len());
    for Wanted { index, .. } in wanted {
        if !indexes.contains(&index) {
            indexes.push(index);
        }
    }
    indexes
}

/// Returns the output with this name, or the element: `NAME.0` is the first of the sequence `NAME`. The error lists the
/// outputs that exist.
pub(crate) fn known_output(signature: &Signature, name: &str) -> Result<Wanted> {
    if let Some((index, _)) = signature.output(name) {
        return Ok(Wanted { index, element: None });
    }
    let element = name.rsplit_once('.').and_then(|(name, nth)| {
        let (index, port) = signature.output(name)?;
        elements(&port.kind)?;
        Some(Wanted { index, element: Some(nth.parse().ok()?) })
    });
    element.ok_or_else(|| {
        let known = signature.output_names();
        Error::invalid(format!("the model has no output \"{name}\"; its outputs are {known}"))
    })
}

impl Wanted {
    /// Returns the name in requests and responses.
    pub(crate) fn name(self, port: &Port) -> Cow<'_, str> {
        match self.element {
            None => Cow::Borrowed(&port.name),
            Some(nth) => Cow::Owned(format!("{}.{nth}", port.name)),
        }
    }

    /// Calls `then` with the tensor that stands for the value of `port`, and the keys if it holds the values of maps. An
    /// optional output without a value is left out.
    pub(crate) fn carry(
        self,
        port: &Port,
        value: ValueView<'_>,
        mut then: impl FnMut(&TensorView<'_>, Option<&Tensor>) -> Result<()>,
    ) -> Result<()> {
        let value = match value {
            ValueView::Tensor(view) => return then(&view, None),
            ValueView::Other(value) => value,
        };
        let (value, kind) = match (value, self.element, elements(&port.kind)) {
            (Value::Sequence(values), Some(nth), Some(kind)) => {
                let (name, count) = (&port.name, values.len());
                let missing =
                    || Error::invalid(format!("output \"{name}\" has {count} elements, no \"{name}.{nth}\""));
                (values.get(nth).ok_or_else(missing)?, kind)
            }
            _ => (value, &port.kind),
        };
        match joined(value, kind) {
            Some((tensor, keys)) => then(&tensor.view(), keys),
            None if *value == Value::Absent => Ok(()),
            None => {
                let name = self.name(port);
                let message = format!(
                    "the elements of output \"{name}\" do not all have one shape, so they are not one tensor: request \
                     them one by one in `outputs`, as \"{name}.0\", \"{name}.1\", …, or send the request to /score"
                );
                Err(Error::new(ErrorKind::NotAcceptable, message))
            }
        }
    }
}

/// Returns the tensor that stands for a value: a sequence has one dimension more than its elements, a map is the list of
/// its values. `None` if the elements differ in shape or in keys, or if there is no value.
fn joined<'v>(value: &'v Value, kind: &ValueType) -> Option<(Cow<'v, Tensor>, Option<&'v Tensor>)> {
    let values = match value {
        Value::Tensor(tensor) => return Some((Cow::Borrowed(tensor), None)),
        Value::Map { keys, values } => return Some((Cow::Borrowed(values), Some(keys))),
        Value::Absent => return None,
        Value::Sequence(values) => values,
    };
    let of = elements(kind).unwrap_or(kind);
    let Some((first, rest)) = values.split_first() else {
        // The free dimensions, of which the number of elements is the first, are 0.
        let (datatype, shape) = v2_tensor(kind);
        let shape = shape.into_iter().map(|length| length.max(0)).collect();
        return Some((Cow::Owned(Tensor::zeros(datatype, shape)?), None));
    };
    let (first, keys) = joined(first, of)?;
    let Tensor { datatype, shape, mut data } = first.into_owned();
    for value in rest {
        let (next, its_keys) = joined(value, of)?;
        if next.datatype != datatype || next.shape != shape || its_keys != keys {
            return None;
        }
        match (&mut data, &next.data) {
            (Data::Raw(all), Data::Raw(more)) => all.extend(more.bytes()),
            (Data::Strings(all), Data::Strings(more)) => more.iter().for_each(|string| all.push(string)),
            _ => return None,
        }
    }
    let mut all = Shape::from_slice(&[i64::try_from(values.len()).ok()?]);
    all.extend(shape);
    Some((Cow::Owned(Tensor { datatype, shape: all, data }), keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::{Model, model_metadata, v1_metadata};
    use crate::grpc::metadata;
    use crate::openapi::{Described, document as openapi};
    use drisse_core::{Buffer, DataType, Dim, Strings, TensorType};

    fn sequence(dims: Option<Vec<Dim>>) -> Port {
        let of = ValueType::Tensor(TensorType { datatype: DataType::Int64, shape: dims });
        Port { name: "s".to_owned(), kind: ValueType::Sequence(Box::new(of)), optional: false }
    }

    fn numbers(shape: &[i64], numbers: &[i64]) -> Value {
        let mut buffer = Buffer::new();
        buffer.extend_from(numbers);
        Value::Tensor(Tensor { datatype: DataType::Int64, shape: shape.into(), data: Data::Raw(buffer) })
    }

    fn shape(port: &Port, element: Option<usize>, value: &Value) -> Result<Vec<i64>> {
        let mut shape = vec![-9];
        Wanted { index: 0, element }.carry(port, ValueView::Other(value), |tensor, _| {
            shape = tensor.shape.to_vec();
            Ok(())
        })?;
        Ok(shape)
    }

    #[test]
    fn elements_of_one_shape_are_one_tensor_and_others_have_names_of_their_own() {
        let port = sequence(Some(vec![Dim::Free(None), Dim::Fixed(2)]));
        let alike = Value::Sequence(vec![numbers(&[1, 2], &[1, 2]), numbers(&[1, 2], &[3, 4])]);
        assert_eq!(shape(&port, None, &alike).unwrap(), [2, 1, 2]);
        assert_eq!(shape(&port, None, &Value::Sequence(vec![])).unwrap(), [0, 0, 2]);
        let ragged = Value::Sequence(vec![numbers(&[1, 2], &[1, 2]), numbers(&[0, 2], &[])]);
        let error = shape(&port, None, &ragged).unwrap_err();
        assert!(error.kind() == ErrorKind::NotAcceptable && error.message().contains("\"s.1\""), "{error}");
        assert_eq!(shape(&port, Some(1), &ragged).unwrap(), [0, 2]);
        assert!(shape(&port, Some(2), &ragged).unwrap_err().message().contains("has 2 elements, no \"s.2\""));
        assert_eq!(shape(&port, None, &Value::Absent).unwrap(), [-9], "no value, no output");
        let signature = Signature { inputs: vec![], outputs: vec![port] };
        assert_eq!(known_output(&signature, "s.7").unwrap(), Wanted { index: 0, element: Some(7) });
        for unknown in ["s.", "s.x", "t.0", "s.-1"] {
            assert!(known_output(&signature, unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn metadata_lists_what_is_answered_and_names_the_rest() {
        let mut odd = sequence(None);
        (odd.name, odd.kind) = ("odd".to_owned(), ValueType::Other("sparse tensor".to_owned()));
        let signature = Signature { inputs: vec![], outputs: vec![odd.clone(), sequence(Some(vec![]))] };
        let model = Model { name: "m", version: "1", platform: "p", signature: &signature };
        let document = model_metadata(model, ["1"].into_iter());
        assert_eq!(
            document["outputs"],
            serde_json::json!([{ "name": "s", "datatype": "INT64", "shape": [-1] }])
        );
        assert_eq!(document["properties"]["outputs_not_carried"], "odd");
        assert_eq!(document["properties"]["elements_of_sequences"], "s.N");
        assert_eq!(metadata(model, ["1"].into_iter()).properties.len(), 2);
        let tensorflow = &v1_metadata(model)["metadata"]["signature_def"]["signature_def"]["serving_default"];
        assert_eq!(tensorflow["outputs"].as_object().unwrap().len(), 1);
        let described = Described { name: "m", signature: &signature, sample: None };
        let answer = &openapi("1", &[described], false)["paths"]["/score"]["post"]["responses"]["200"];
        let schema = &answer["content"]["application/json"]["schema"];
        assert_eq!(schema["required"], serde_json::json!(["s"]));
        let why =
            "one entry per output of the model, except those that JSON cannot carry: odd (sparse tensor)";
        assert_eq!(answer["description"], why);
        assert_eq!(all_outputs(&signature), [1]);
        assert_eq!(all_outputs(&Signature { inputs: vec![], outputs: vec![odd] }), [0], "its error says why");
    }

    #[test]
    fn maps_of_strings_and_without_rows_are_tables_too() {
        let strings = |all: &[&str]| Tensor {
            datatype: DataType::Bytes,
            shape: Shape::from_slice(&[all.len() as i64]),
            data: Data::Strings(all.iter().copied().collect::<Strings>()),
        };
        let kind = ValueType::Map {
            key: DataType::Bytes,
            value: Box::new(ValueType::Tensor(TensorType { datatype: DataType::Bytes, shape: Some(vec![]) })),
        };
        let port = Port { name: "m".to_owned(), kind: ValueType::Sequence(Box::new(kind)), optional: false };
        let map = Value::Map { keys: strings(&["a", "b"]), values: strings(&["1", "2"]) };
        assert_eq!(shape(&port, None, &Value::Sequence(vec![map.clone(), map.clone()])).unwrap(), [2, 2]);
        assert_eq!(shape(&port, None, &Value::Sequence(vec![])).unwrap(), [0, 0]);
        assert_eq!(shape(&port, Some(0), &Value::Sequence(vec![map])).unwrap(), [2]);
    }
}
