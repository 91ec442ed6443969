//! What a model takes and gives: names, datatypes, shapes with free dimensions.

use crate::DataType;
use std::fmt;

/// A model's inputs and outputs, in the model's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Signature {
    /// What the model takes.
    pub inputs: Vec<Port>,
    /// What the model gives.
    pub outputs: Vec<Port>,
}

/// One input or output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The name, as the model spells it.
    pub name: String,
    /// What it carries.
    pub kind: ValueType,
    /// Whether an input may be left out: the model has a default for it.
    pub optional: bool,
}

/// What a port carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueType {
    /// A dense array.
    Tensor(TensorType),
    /// Values one after the other.
    Sequence(Box<Self>),
    /// Keys of one datatype and their values.
    Map {
        /// `BYTES` or an integer type.
        key: DataType,
        /// What each key leads to.
        value: Box<Self>,
    },
    /// A value or nothing.
    Optional(Box<Self>),
    /// What Drisse does not serve, in ONNX's words (a sparse tensor, an opaque type).
    Other(String),
}

/// A tensor's datatype and shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorType {
    /// The element type.
    pub datatype: DataType,
    /// The dimensions, or `None` when the model does not say how many there are.
    pub shape: Option<Vec<Dim>>,
}

/// One dimension.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Dim {
    /// Always this long.
    Fixed(i64),
    /// Any length; dimensions of one name are equally long within a request.
    Free(Option<String>),
}

impl Signature {
    /// The input with this name and its place.
    pub fn input(&self, name: &str) -> Option<(usize, &Port)> {
        self.inputs.iter().enumerate().find(|(_, port)| port.name == name)
    }

    /// The output with this name and its place.
    pub fn output(&self, name: &str) -> Option<(usize, &Port)> {
        self.outputs.iter().enumerate().find(|(_, port)| port.name == name)
    }

    /// The input that must be given, when there is exactly one, and its place.
    pub fn only_input(&self) -> Option<(usize, &Port)> {
        if let [port] = &*self.inputs {
            return Some((0, port));
        }
        let mut required = self.inputs.iter().enumerate().filter(|(_, port)| !port.optional);
        required.next().filter(|_| required.next().is_none())
    }

    /// The first thing a client would notice if `new` took this one's place, in words. Names of free
    /// dimensions mean nothing to a client.
    pub fn difference(&self, new: &Self) -> Option<String> {
        let sides = [("input", &self.inputs, &new.inputs), ("output", &self.outputs, &new.outputs)];
        sides.into_iter().find_map(|(side, old, new)| ports_differ(side, old, new))
    }

    /// The names of the inputs, for messages: `` `X`, `mask` ``.
    pub fn input_names(&self) -> String {
        quoted(&self.inputs)
    }

    /// The names of the outputs, for messages.
    pub fn output_names(&self) -> String {
        quoted(&self.outputs)
    }
}

fn ports_differ(side: &str, old: &[Port], new: &[Port]) -> Option<String> {
    for before in old {
        let name = &before.name;
        let Some(after) = new.iter().find(|port| port.name == *name) else {
            return Some(format!("{side} `{name}` ({}) is gone", before.kind));
        };
        if !before.kind.same_to_clients(&after.kind) {
            return Some(format!("{side} `{name}` was {} and is {}", before.kind, after.kind));
        }
        if before.optional && !after.optional {
            return Some(format!("{side} `{name}` could be left out and is required"));
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
    /// The tensor type this port carries, looking through an optional; `None` for anything else.
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
}

impl TensorType {
    /// Whether a tensor of `shape` fits: as many dimensions, and the fixed ones equal.
    pub fn accepts(&self, shape: &[i64]) -> bool {
        self.shape.as_ref().is_none_or(|dims| {
            dims.len() == shape.len()
                && dims.iter().zip(shape).all(|(dim, &given)| match dim {
                    Dim::Fixed(wanted) => *wanted == given,
                    Dim::Free(_) => given >= 0,
                })
        })
    }

    /// The shape as people read it: `[batch, 64]`, `[?, 3]`, `any shape`.
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
    fn a_changed_signature_is_told_in_words_and_a_renamed_free_dimension_is_no_change() {
        let port = |name: &str, dims: Vec<Dim>, optional| Port {
            name: name.to_owned(),
            kind: ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape: Some(dims) }),
            optional,
        };
        let free = |name: &str| Dim::Free(Some(name.to_owned()));
        let signature = |inputs: Vec<Port>| Signature { inputs, outputs: vec![] };
        let old = signature(vec![port("X", vec![free("batch"), Dim::Fixed(64)], false)]);
        let told = |inputs| old.difference(&signature(inputs));
        assert_eq!(told(vec![port("X", vec![free("N"), Dim::Fixed(64)], false)]), None);
        assert_eq!(
            told(vec![port("X", vec![free("batch"), Dim::Fixed(32)], false)]).as_deref(),
            Some("input `X` was FP32 [batch, 64] and is FP32 [batch, 32]")
        );
        assert_eq!(told(vec![]).as_deref(), Some("input `X` (FP32 [batch, 64]) is gone"));
        let more = |optional| vec![old.inputs[0].clone(), port("m", vec![free("n")], optional)];
        assert_eq!(told(more(true)), None);
        assert_eq!(told(more(false)).as_deref(), Some("input `m` (FP32 [n]) is new"));
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
