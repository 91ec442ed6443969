//! A model's signature: the names, datatypes and shapes of its inputs and outputs.

use crate::DataType;
use std::fmt;

/// A model's inputs and outputs, in the model's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Signature {
    /// The inputs.
    pub inputs: Vec<Port>,
    /// The outputs.
    pub outputs: Vec<Port>,
}

/// One input or output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The name in the model.
    pub name: String,
    /// The type of the value.
    pub kind: ValueType,
    /// Whether a request may leave this input out because the model has a default.
    pub optional: bool,
}

/// The type of an input or output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueType {
    /// A dense array.
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<Self>),
    /// A map from keys of one datatype to values of one type.
    Map {
        /// The datatype of the keys: `BYTES` or an integer type.
        key: DataType,
        /// The type of the values.
        value: Box<Self>,
    },
    /// A value that can be missing.
    Optional(Box<Self>),
    /// A type that Drisse does not support, as ONNX names it (a sparse tensor, an opaque type).
    Other(String),
}

/// A tensor's datatype and shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorType {
    /// The element type.
    pub datatype: DataType,
    /// The dimensions; `None` if the model does not declare them.
    pub shape: Option<Vec<Dim>>,
}

/// One dimension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dim {
    /// A dimension of this length.
    Fixed(i64),
    /// A dimension of any length. Dimensions of the same name should have the same length within a request.
    Free(Option<String>),
}

impl Signature {
    /// Returns the input with this name and its index.
    pub fn input(&self, name: &str) -> Option<(usize, &Port)> {
        self.inputs.iter().enumerate().find(|(_, port)| port.name == name)
    }

    /// Returns the output with this name and its index.
    pub fn output(&self, name: &str) -> Option<(usize, &Port)> {
        self.outputs.iter().enumerate().find(|(_, port)| port.name == name)
    }

    /// Returns the only input, or the only required one, and its index; `None` if there are several.
    pub fn only_input(&self) -> Option<(usize, &Port)> {
        if let [port] = &*self.inputs {
            return Some((0, port));
        }
        let mut required = self.inputs.iter().enumerate().filter(|(_, port)| !port.optional);
        required.next().filter(|_| required.next().is_none())
    }

    /// Describes the first incompatible change from this signature to `new`; `None` if clients notice no difference.
    /// The names of free dimensions do not matter.
    pub fn difference(&self, new: &Self) -> Option<String> {
        let sides = [("input", &self.inputs, &new.inputs), ("output", &self.outputs, &new.outputs)];
        sides.into_iter().find_map(|(side, old, new)| ports_differ(side, old, new))
    }

    /// Formats the names of the inputs for a message: `` `X`, `mask` ``.
    pub fn input_names(&self) -> String {
        quoted(&self.inputs)
    }

    /// Formats the names of the outputs for a message.
    pub fn output_names(&self) -> String {
        quoted(&self.outputs)
    }
}

fn ports_differ(side: &str, old: &[Port], new: &[Port]) -> Option<String> {
    for before in old {
        let name = &before.name;
        let Some(after) = new.iter().find(|port| port.name == *name) else {
            return Some(format!("{side} `{name}` ({}) was removed", before.kind));
        };
        if !before.kind.same_to_clients(&after.kind) {
            return Some(format!("{side} `{name}` changed from {} to {}", before.kind, after.kind));
        }
        if before.optional && !after.optional {
            return Some(format!("{side} `{name}` was optional and is now required"));
        }
    }
    let added =
        new.iter().find(|port| !port.optional && old.iter().all(|before| before.name != port.name))?;
    Some(format!("{side} `{}` ({}) is new", added.name, added.kind))
}

impl ValueType {
    fn same_to_clients(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tensor(one), Self::Tensor(two)) => {
                one.datatype == two.datatype
                    && match (&one.shape, &two.shape) {
                        (Some(one), Some(two)) => {
                            one.len() == two.len()
                                && one.iter().zip(two).all(|(one, two)| one.same_length(two))
                        }
                        (one, two) => one == two,
                    }
            }
            (Self::Sequence(one), Self::Sequence(two)) | (Self::Optional(one), Self::Optional(two)) => {
                one.same_to_clients(two)
            }
            (Self::Map { key, value }, Self::Map { key: other_key, value: other }) => {
                key == other_key && value.same_to_clients(other)
            }
            (one, two) => one == two,
        }
    }
}

impl Dim {
    fn same_length(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(one), Self::Fixed(two)) => one == two,
            (Self::Free(_), Self::Free(_)) => true,
            _ => false,
        }
    }
}

fn quoted(ports: &[Port]) -> String {
    // A model can have thousands of ports; a message names the first few.
    const SHOWN: usize = 12;
    let names: Vec<_> = ports.iter().take(SHOWN).map(|port| format!("`{}`", port.name)).collect();
    let more = if ports.len() > SHOWN { format!(" and {} more", ports.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names.join(", "))
}

impl Port {
    /// Returns the type of a tensor or an optional tensor; `None` for any other type.
    pub fn tensor(&self) -> Option<&TensorType> {
        match &self.kind {
            ValueType::Tensor(tensor) => Some(tensor),
            ValueType::Optional(inner) => match &**inner {
                ValueType::Tensor(tensor) => Some(tensor),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns whether a request may leave it out.
    pub fn may_be_absent(&self) -> bool {
        self.optional || matches!(self.kind, ValueType::Optional(_))
    }
}

impl TensorType {
    /// Returns whether `shape` fits: the same number of dimensions, and equal fixed dimensions.
    pub fn accepts(&self, shape: &[i64]) -> bool {
        self.shape.as_ref().is_none_or(|dims| {
            dims.len() == shape.len()
                && dims.iter().zip(shape).all(|(dim, &given)| match dim {
                    Dim::Fixed(wanted) => *wanted == given,
                    Dim::Free(_) => given >= 0,
                })
        })
    }

    /// Formats the shape for people: `[batch, 64]`, `[?, 3]`, `any shape`.
    pub fn shape_text(&self) -> String {
        match &self.shape {
            None => "any shape".to_owned(),
            Some(dims) => {
                let dims: Vec<_> = dims.iter().map(Dim::to_string).collect();
                format!("[{}]", dims.join(", "))
            }
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(length) => write!(f, "{length}"),
            Self::Free(Some(name)) => f.write_str(name),
            Self::Free(None) => f.write_str("?"),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tensor(tensor) => write!(f, "{} {}", tensor.datatype, tensor.shape_text()),
            Self::Sequence(value) => write!(f, "sequence of {value}"),
            Self::Map { key, value } => write!(f, "map from {key} to {value}"),
            Self::Optional(value) => write!(f, "optional {value}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incompatible_change_is_described_and_a_renamed_free_dimension_is_compatible() {
        let port = |name: &str, dims: Vec<Dim>, optional| Port {
            name: name.to_owned(),
            kind: ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape: Some(dims) }),
            optional,
        };
        let free = |name: &str| Dim::Free(Some(name.to_owned()));
        let signature = |inputs: Vec<Port>| Signature { inputs, outputs: vec![] };
        let old = signature(vec![port("X", vec![free("batch"), Dim::Fixed(64)], false)]);
        let difference = |inputs| old.difference(&signature(inputs));
        assert_eq!(difference(vec![port("X", vec![free("N"), Dim::Fixed(64)], false)]), None);
        assert_eq!(
            difference(vec![port("X", vec![free("batch"), Dim::Fixed(32)], false)]).as_deref(),
            Some("input `X` changed from FP32 [batch, 64] to FP32 [batch, 32]")
        );
        assert_eq!(difference(vec![]).as_deref(), Some("input `X` (FP32 [batch, 64]) was removed"));
        let more = |optional| vec![old.inputs[0].clone(), port("m", vec![free("n")], optional)];
        assert_eq!(difference(more(true)), None);
        assert_eq!(difference(more(false)).as_deref(), Some("input `m` (FP32 [n]) is new"));
    }

    #[test]
    fn a_fixed_dimension_must_be_equal_and_a_free_one_may_be_anything() {
        let x = TensorType {
            datatype: DataType::Fp32,
            shape: Some(vec![Dim::Free(Some("batch".into())), Dim::Fixed(64)]),
        };
        assert!(x.accepts(&[0, 64]) && x.accepts(&[9, 64]));
        assert!(!x.accepts(&[1, 63]) && !x.accepts(&[64]));
        assert_eq!(x.shape_text(), "[batch, 64]");
    }
}
