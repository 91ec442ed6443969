//! Reads the messages of an ONNX file: model, graph, node, tensor, type.

use super::Inspection;
use super::protobuf::{Field, Proto, Result};
use super::rows::{Does, MAX_NUMBERS, Node, Nodes};
use drisse_core::{DataType, Dim, Port, TensorType, ValueType};
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Seek};

/// Longest name in a model, in bytes: 64 KiB is more than any exporter writes.
const MAX_NAME: u64 = 64 << 10;
/// How many bytes of a description or a metadata value are kept: 4 KiB.
const KEPT_TEXT: usize = 4 << 10;
/// Longest metadata value (label lists, tokenizers) that is accepted, in bytes: 16 MiB.
const MAX_TEXT: u64 = 16 << 20;
/// Highest number of inputs, of outputs, of operator kinds, of metadata entries and of external files.
const MAX_ENTRIES: usize = 10_000;
/// Highest number of dimensions of a tensor, as in NumPy.
const MAX_RANK: usize = 64;
/// Longest path in bytes: `PATH_MAX` on Linux.
const MAX_PATH: usize = 4096;
/// Highest number of initializers: the hash of each name takes 8 bytes, 8 MiB in all.
const MAX_INITIALIZERS: usize = 1 << 20;

/// Longest encoding of [`MAX_NUMBERS`] integers, in bytes: a varint has at most ten.
const MAX_NUMBERS_BYTES: u64 = 10 * MAX_NUMBERS as u64;

/// Operators whose work depends on input values: control flow, and operators whose output size is an input.
const DATA_DEPENDENT: [&str; 13] = [
    "Loop",
    "If",
    "Scan",
    "SequenceMap",
    "Range",
    "ConstantOfShape",
    "Expand",
    "Tile",
    "OneHot",
    "Pad",
    "Resize",
    "Upsample",
    "CenterCropPad",
];

struct Walk<'a> {
    found: &'a mut Inspection,
    locations: BTreeSet<String>,
    /// Hashes of the names of the main graph's initializers. An input with such a name has a default value.
    initializers: HashSet<u64>,
    /// Nodes of the graph or function that is being read.
    nodes: Nodes,
}

/// The parts of an attribute that are kept: its name, and its integers if they describe axes or dimensions.
#[derive(Default)]
struct Attribute {
    name: String,
    numbers: Option<Vec<i64>>,
}

/// Fills `found` and returns the paths of external data.
pub(super) fn read<R: Read + Seek>(input: R, size: u64, found: &mut Inspection) -> Result<BTreeSet<String>> {
    let mut walk =
        Walk { found, locations: BTreeSet::new(), initializers: HashSet::new(), nodes: Nodes::default() };
    walk.model(&mut Proto::new(input, size))?;
    let Walk { found, locations, initializers, mut nodes } = walk;
    for input in &mut found.signature.inputs {
        input.optional = initializers.contains(&hash(&input.name));
    }
    // Before IR version 4 every initializer had to be listed as an input too: such an input is a weight.
    if found.ir_version < 4 {
        found.signature.inputs.retain(|input| !input.optional);
    }
    let inputs = found.signature.inputs.iter().map(|input| hash(&input.name));
    found.traits.rows_independent = nodes.rows_independent(inputs).and(found.traits.rows_independent);
    Ok(locations)
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Walk<'_> {
    fn model<R: Read + Seek>(&mut self, proto: &mut Proto<R>) -> Result<()> {
        while let Some(field) = proto.field()? {
            match field {
                Field::Varint(1, version) => self.found.ir_version = version,
                Field::Varint(5, version) => self.found.model_version = version,
                Field::Bytes(2, _) => self.found.producer = proto.text(MAX_NAME)?,
                Field::Bytes(3, _) => self.found.producer_version = proto.text(MAX_NAME)?,
                Field::Bytes(4, _) => self.found.domain = proto.text(MAX_NAME)?,
                Field::Bytes(6, _) => self.found.description = kept(proto.text(MAX_TEXT)?),
                Field::Bytes(7, _) => proto.message(|proto| self.graph(proto, true))?,
                Field::Bytes(8, _) => proto.message(|proto| self.opset(proto))?,
                Field::Bytes(14, _) => {
                    let (key, value) = entry(proto)?;
                    self.found.metadata.insert(key, kept(value));
                    bounded(proto, self.found.metadata.len(), "metadata entries")?;
                }
                Field::Bytes(25, _) => proto.message(|proto| self.function(proto))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn opset<R: Read + Seek>(&mut self, proto: &mut Proto<R>) -> Result<()> {
        let (mut domain, mut version) = (String::new(), 0);
        while let Some(field) = proto.field()? {
            match field {
                Field::Bytes(1, _) => domain = proto.text(MAX_NAME)?,
                Field::Varint(2, value) => version = value,
                _ => {}
            }
        }
        let domain = if domain.is_empty() { "ai.onnx".to_owned() } else { domain };
        self.found.opsets.insert(domain, version);
        bounded(proto, self.found.opsets.len(), "operator sets")
    }

    /// Reads a graph in an attribute. Its nodes are discarded: the control flow node around it already counts.
    fn subgraph<R: Read + Seek>(&mut self, proto: &mut Proto<R>) -> Result<()> {
        let outer = std::mem::take(&mut self.nodes);
        self.graph(proto, false)?;
        self.nodes = outer;
        Ok(())
    }

    fn graph<R: Read + Seek>(&mut self, proto: &mut Proto<R>, main: bool) -> Result<()> {
        while let Some(field) = proto.field()? {
            match field {
                Field::Bytes(1, _) => proto.message(|proto| self.node(proto))?,
                Field::Bytes(2, _) if main => self.found.graph = proto.text(MAX_NAME)?,
                Field::Bytes(5, _) => proto.message(|proto| {
                    let integers = self.tensor(proto, main)?;
                    integers.into_iter().for_each(|(name, numbers)| self.nodes.know(name, numbers));
                    Ok(())
                })?,
                Field::Bytes(15, _) => proto.message(|proto| self.sparse(proto, main))?,
                Field::Bytes(11, _) if main => {
                    let port = port(proto)?;
                    self.found.signature.inputs.push(port);
                    bounded(proto, self.found.signature.inputs.len(), "inputs")?;
                }
                Field::Bytes(12, _) if main => {
                    let port = port(proto)?;
                    self.found.signature.outputs.push(port);
                    bounded(proto, self.found.signature.outputs.len(), "outputs")?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn function<R: Read + Seek>(&mut self, proto: &mut Proto<R>) -> Result<()> {
        let (outer, mut inputs) = (std::mem::take(&mut self.nodes), Vec::new());
        while let Some(field) = proto.field()? {
            match field {
                Field::Bytes(4, _) => inputs.push(hash(&proto.text(MAX_NAME)?)),
                Field::Bytes(7, _) => proto.message(|proto| self.node(proto))?,
                Field::Bytes(11, _) => proto.message(|proto| self.attribute(proto).map(drop))?,
                _ => {}
            }
        }
        let mut nodes = std::mem::replace(&mut self.nodes, outer);
        let rows = &mut self.found.traits.rows_independent;
        *rows = rows.and_then(|()| nodes.rows_independent(inputs));
        Ok(())
    }

    fn node<R: Read + Seek>(&mut self, proto: &mut Proto<R>) -> Result<()> {
        let (mut operator, mut domain) = (String::new(), String::new());
        let (mut inputs, mut outputs, mut numbers, mut flagged) = (Vec::new(), Vec::new(), None, false);
        while let Some(field) = proto.field()? {
            match field {
                Field::Bytes(1, _) => inputs.push(proto.text(MAX_NAME)?),
                Field::Bytes(2, _) => outputs.push(hash(&proto.text(MAX_NAME)?)),
                Field::Bytes(4, _) => operator = proto.text(MAX_NAME)?,
                Field::Bytes(7, _) => domain = proto.text(MAX_NAME)?,
                Field::Bytes(5, _) => proto.message(|proto| {
                    let attribute = self.attribute(proto)?;
                    match &*attribute.name {
                        "training_mode" | "noop_with_empty_axes" => {
                            flagged |= attribute.numbers.is_some_and(|numbers| numbers != [0]);
                        }
                        _ => numbers = attribute.numbers.or(numbers.take()),
                    }
                    Ok(())
                })?,
                _ => {}
            }
        }
        // Trailing optional inputs can be omitted or have empty names; both mean the same.
        while inputs.pop_if(|name| name.is_empty()).is_some() {}
        let does = Does::of(&domain, &operator);
        let inputs = inputs.iter().map(|name| hash(name)).collect();
        self.nodes.push(Node { does, inputs, outputs, numbers, flagged });
        let own = domain.is_empty() || domain == "ai.onnx";
        self.found.traits.data_dependent |= own && DATA_DEPENDENT.contains(&&*operator);
        let name = if own { operator } else { format!("{domain}.{operator}") };
        *self.found.operators.entry(name).or_default() += 1;
        bounded(proto, self.found.operators.len(), "kinds of operators")
    }

    fn attribute<R: Read + Seek>(&mut self, proto: &mut Proto<R>) -> Result<Attribute> {
        let (mut name, mut numbers) = (String::new(), Vec::new());
        while let Some(field) = proto.field()? {
            let relevant = matches!(
                &*name,
                "axis"
                    | "axes"
                    | "perm"
                    | "value_int"
                    | "value_ints"
                    | "training_mode"
                    | "noop_with_empty_axes"
            );
            match field {
                Field::Bytes(1, _) => name = proto.text(MAX_NAME)?,
                Field::Varint(3 | 8, number) if relevant && numbers.len() <= MAX_NUMBERS => {
                    numbers.push(number.cast_signed());
                }
                Field::Bytes(8, len) if relevant && len <= MAX_NUMBERS_BYTES => {
                    proto.integers(field, |number| numbers.push(number.cast_signed()))?;
                }
                Field::Bytes(5 | 10, _) => proto.message(|proto| {
                    let integers = self.tensor(proto, false)?.filter(|_| name == "value");
                    numbers.extend(integers.into_iter().flat_map(|(_, numbers)| numbers));
                    Ok(())
                })?,
                Field::Bytes(6 | 11, _) => proto.message(|proto| self.subgraph(proto))?,
                Field::Bytes(22 | 23, _) => proto.message(|proto| self.sparse(proto, false))?,
                _ => {}
            }
        }
        Ok(Attribute { name, numbers: (!numbers.is_empty()).then_some(numbers) })
    }

    fn sparse<R: Read + Seek>(&mut self, proto: &mut Proto<R>, main: bool) -> Result<()> {
        while let Some(field) = proto.field()? {
            if let Field::Bytes(1 | 2, _) = field {
                proto.message(|proto| self.tensor(proto, main).map(drop))?;
            }
        }
        Ok(())
    }

    /// Reads a tensor. Returns the hash of its name and its values if it is a short INT64 tensor.
    fn tensor<R: Read + Seek>(
        &mut self,
        proto: &mut Proto<R>,
        initializer: bool,
    ) -> Result<Option<(u64, Vec<i64>)>> {
        let (mut elements, mut datatype, mut named) = (1_u64, None, 0);
        let (mut raw, mut numbers) = (Vec::new(), Vec::new());
        while let Some(field) = proto.field()? {
            match field {
                Field::Varint(1, _) | Field::Bytes(1, _) => {
                    proto.integers(field, |dim| elements = elements.saturating_mul(dim))?;
                }
                Field::Varint(2, code) => datatype = self::datatype(code),
                // float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data
                Field::Bytes(number @ (4..=7 | 9..=11), len) => {
                    self.found.weight_bytes = self.found.weight_bytes.saturating_add(len);
                    match number {
                        7 if len <= MAX_NUMBERS_BYTES => {
                            proto.integers(field, |number| numbers.push(number))?
                        }
                        9 if len <= MAX_NUMBERS_BYTES => raw = proto.bytes(MAX_NUMBERS_BYTES)?,
                        _ => {}
                    }
                }
                Field::Varint(7, number) if numbers.len() <= MAX_NUMBERS => numbers.push(number),
                Field::Bytes(8, _) if initializer => {
                    let name = proto.text(MAX_NAME)?;
                    if self.initializers.len() == MAX_INITIALIZERS {
                        return Err(
                            proto.corrupt(proto.at(), format!("more than {MAX_INITIALIZERS} initializers"))
                        );
                    }
                    named = hash(&name);
                    self.initializers.insert(named);
                }
                Field::Bytes(13, _) => {
                    let (key, value) = entry(proto)?;
                    if key == "location" {
                        at_most(proto, MAX_PATH, value.len(), "bytes in a path")?;
                        self.locations.insert(value);
                        bounded(proto, self.locations.len(), "external files")?;
                    }
                }
                _ => {}
            }
        }
        if initializer {
            self.found.parameters = self.found.parameters.saturating_add(elements);
        }
        numbers.extend(raw.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes)));
        let complete = datatype == Some(DataType::Int64) && elements == numbers.len() as u64;
        Ok(complete.then(|| (named, numbers.into_iter().map(u64::cast_signed).collect())))
    }
}

fn bounded<R: Read + Seek>(proto: &Proto<R>, count: usize, what: &str) -> Result<()> {
    at_most(proto, MAX_ENTRIES, count, what)
}

fn at_most<R: Read + Seek>(proto: &Proto<R>, most: usize, count: usize, what: &str) -> Result<()> {
    if count <= most {
        return Ok(());
    }
    Err(proto.corrupt(proto.at(), format!("more than {most} {what}")))
}

/// Reads a `StringStringEntryProto`.
fn entry<R: Read + Seek>(proto: &mut Proto<R>) -> Result<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            match field {
                Field::Bytes(1, _) => key = proto.text(MAX_NAME)?,
                Field::Bytes(2, _) => value = proto.text(MAX_TEXT)?,
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok((key, value))
}

fn kept(mut text: String) -> String {
    if text.len() > KEPT_TEXT {
        text.truncate(text.floor_char_boundary(KEPT_TEXT));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// Reads a `ValueInfoProto`.
fn port<R: Read + Seek>(proto: &mut Proto<R>) -> Result<Port> {
    let mut name = String::new();
    let mut kind = None;
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            match field {
                Field::Bytes(1, _) => name = proto.name(MAX_NAME)?,
                Field::Bytes(2, _) => kind = Some(value_type(proto)?),
                _ => {}
            }
        }
        Ok(())
    })?;
    let kind = kind.unwrap_or_else(|| ValueType::Other("of no stated type".to_owned()));
    Ok(Port { name, kind, optional: false })
}

/// Reads a `TypeProto`.
fn value_type<R: Read + Seek>(proto: &mut Proto<R>) -> Result<ValueType> {
    let mut kind = ValueType::Other("of no stated type".to_owned());
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            kind = match field {
                Field::Bytes(1, _) => tensor_type(proto)?,
                Field::Bytes(4, _) => ValueType::Sequence(Box::new(element(proto)?)),
                Field::Bytes(5, _) => map_type(proto)?,
                Field::Bytes(9, _) => ValueType::Optional(Box::new(element(proto)?)),
                Field::Bytes(8, _) => ValueType::Other("sparse tensor".to_owned()),
                Field::Bytes(7, _) => ValueType::Other("opaque value".to_owned()),
                _ => continue,
            };
        }
        Ok(())
    })?;
    Ok(kind)
}

/// Reads the `elem_type` of a sequence or an optional.
fn element<R: Read + Seek>(proto: &mut Proto<R>) -> Result<ValueType> {
    let mut of = ValueType::Other("of no stated type".to_owned());
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            if let Field::Bytes(1, _) = field {
                of = value_type(proto)?;
            }
        }
        Ok(())
    })?;
    Ok(of)
}

fn map_type<R: Read + Seek>(proto: &mut Proto<R>) -> Result<ValueType> {
    let mut key = None;
    let mut value = ValueType::Other("of no stated type".to_owned());
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            match field {
                Field::Varint(1, code) => key = datatype(code),
                Field::Bytes(2, _) => value = value_type(proto)?,
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok(match key {
        Some(key) => ValueType::Map { key, value: Box::new(value) },
        None => ValueType::Other("map with keys of no known datatype".to_owned()),
    })
}

fn tensor_type<R: Read + Seek>(proto: &mut Proto<R>) -> Result<ValueType> {
    let mut code = 0;
    let mut shape = None;
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            match field {
                Field::Varint(1, value) => code = value,
                Field::Bytes(2, _) => shape = Some(dims(proto)?),
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok(match datatype(code) {
        Some(datatype) => ValueType::Tensor(TensorType { datatype, shape }),
        None => ValueType::Other(format!("tensor of ONNX datatype {code}")),
    })
}

fn datatype(code: u64) -> Option<DataType> {
    DataType::from_onnx(i32::try_from(code).ok()?)
}

fn dims<R: Read + Seek>(proto: &mut Proto<R>) -> Result<Vec<Dim>> {
    let mut dims = Vec::new();
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            if let Field::Bytes(1, _) = field {
                dims.push(dim(proto)?);
                at_most(proto, MAX_RANK, dims.len(), "dimensions")?;
            }
        }
        Ok(())
    })?;
    Ok(dims)
}

fn dim<R: Read + Seek>(proto: &mut Proto<R>) -> Result<Dim> {
    let mut dim = Dim::Free(None);
    proto.message(|proto| {
        while let Some(field) = proto.field()? {
            dim = match field {
                // Some exporters write -1 for a free dimension, and ONNX Runtime accepts that too.
                Field::Varint(1, length) => match i64::try_from(length) {
                    Ok(length) => Dim::Fixed(length),
                    Err(_) => Dim::Free(None),
                },
                Field::Bytes(2, _) => Dim::Free(Some(proto.text(MAX_NAME)?).filter(|name| !name.is_empty())),
                _ => continue,
            };
        }
        Ok(())
    })?;
    Ok(dim)
}
