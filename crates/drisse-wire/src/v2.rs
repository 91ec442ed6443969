//! Open Inference Protocol V2 over HTTP: infer requests and responses, with tensors in JSON or as bytes after the JSON.
//!
//! Sources: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md>,
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>

mod answer;
mod carried;
mod classes;

use crate::json::{Reader, TensorReader, integer};
use crate::raw;
use crate::shared_memory::{self, Regions, SharedMemoryParameters, Window};
use drisse_core::{DataType, Dim, Error, Inputs, Port, Result, Shape, Signature, Tensor, element_count};
use std::time::Duration;

pub use answer::{Answer, AnswerParts, AnswerSink};
pub use carried::{Wanted, all_outputs};
pub(crate) use carried::{carries, indexes, known_output, properties};
pub(crate) use classes::classes;

/// A decoded infer request.
#[derive(Debug)]
pub struct InferRequest {
    /// The request's `id`, which the response repeats.
    pub id: Option<String>,
    /// The inputs.
    pub inputs: Inputs,
    /// The indexes in the signature of the requested outputs, in their order; all outputs if the request names none.
    pub outputs: Vec<usize>,
    /// The form of each requested output, in the order of `outputs`: several if elements of a sequence are requested.
    /// Empty if each of `outputs` has the default form.
    pub forms: Vec<Form>,
    /// The time limit in the parameter `timeout` (microseconds), counted from now; `None` if there is none.
    pub timeout: Option<Duration>,
}

/// Converts the parameter `timeout` of Triton's schedule policy; 0 sets no limit.
pub(crate) fn timeout(microseconds: usize) -> Option<Duration> {
    (microseconds > 0).then(|| Duration::from_micros(microseconds as u64))
}

/// Triton's parameter for the requests of one sequence, to a model that keeps a state between them; 0 and an empty string
/// are no sequence.
///
/// Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_sequence.md>
pub(crate) const SEQUENCE: &str = "sequence_id";

/// Returns the error of a request that belongs to a sequence.
pub(crate) fn no_sequences() -> Error {
    Error::invalid(format!(
        "the model keeps no state between requests, which `{SEQUENCE}` asks for: send the request without it, and the \
         state as an input of the model if it has one"
    ))
}

/// The form of an output in the response.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// Which output it is.
    pub wanted: Wanted,
    /// Whether the output is sent as bytes after the JSON.
    pub binary: bool,
    /// If not 0, this many of the output's highest elements are sent as `VALUE:INDEX`, instead of the output.
    pub classes: usize,
    /// The shared memory to which the output is written, instead of the response.
    pub window: Option<Window>,
}

/// The tensors of a request that are not in its JSON.
pub(crate) struct Beside<'a> {
    /// The bytes after the JSON that no input has taken yet.
    pub(crate) binary: &'a [u8],
    /// The memory that clients share.
    pub(crate) regions: &'a dyn Regions,
}

/// Decodes the body of `POST /v2/models/NAME/infer`: its JSON, and tensors in the `binary` part after it or in one of
/// the shared memory `regions`.
///
/// # Errors
/// Returns an error that says where the JSON is malformed, or which tensor does not fit the signature and why.
///
/// ```
/// # use drisse_core::{DataType, Dim, Port, Signature, TensorType, ValueType};
/// use drisse_wire::{shared_memory::NoRegions, v2::decode};
/// # let kind = TensorType { datatype: DataType::Fp32, shape: Some(vec![Dim::Free(None), Dim::Fixed(2)]) };
/// # let x = Port { name: "x".to_owned(), kind: ValueType::Tensor(kind), optional: false };
/// # let signature = Signature { inputs: vec![x], outputs: vec![] };
/// // The only input is FP32 [?, 2].
/// let json = br#"{"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}"#;
/// let request = decode(json, &[], &NoRegions, &signature)?;
/// assert_eq!(request.id.as_deref(), Some("7"));
/// assert_eq!(request.inputs.get(0).map(|x| x.shape.to_vec()), Some(vec![1, 2]));
/// # Ok::<(), drisse_core::Error>(())
/// ```
pub fn decode(
    json: &[u8],
    binary: &[u8],
    regions: &dyn Regions,
    signature: &Signature,
) -> Result<InferRequest> {
    let mut beside = Beside { binary, regions };
    let mut reader = Reader::new(json);
    let mut id = None;
    let mut inputs = Inputs::new(signature);
    let mut has_inputs = false;
    let mut requested = Vec::new();
    let (mut in_binary, mut limit) = (false, None);
    reader.members(|reader, key| match key {
        "id" => {
            id = Some(reader.string_or_number()?.into_owned());
            Ok(())
        }
        "inputs" => {
            if std::mem::replace(&mut has_inputs, true) {
                return Err(Error::invalid("`inputs` is given twice"));
            }
            decode_inputs(reader, signature, &mut inputs, &mut beside)
        }
        "outputs" => reader.array(|reader| requested_output(reader, signature, regions, &mut requested)),
        "parameters" => reader.members(|reader, key| match key {
            "binary_data_output" => {
                in_binary = reader.boolean()?;
                Ok(())
            }
            "timeout" => {
                limit = timeout(reader.natural()?);
                Ok(())
            }
            SEQUENCE => match &*reader.string_or_number()? {
                "" | "0" => Ok(()),
                _ => Err(no_sequences()),
            },
            _ => reader.skip(),
        }),
        _ => reader.skip(),
    })?;
    reader.end()?;
    if !has_inputs {
        return Err(Error::invalid(
            "the request has no `inputs`: a list of tensors with name, shape, datatype, data",
        ));
    }
    if !beside.binary.is_empty() {
        let left = beside.binary.len();
        return Err(Error::invalid(format!("{left} bytes are left after the last binary input")));
    }
    let (outputs, forms) = forms(requested, in_binary, signature);
    Ok(InferRequest { id, inputs, outputs, forms, timeout: limit })
}

/// Decodes a body without JSON (`Inference-Header-Content-Length: 0`): the whole body is the only input, and all
/// outputs are sent as bytes.
///
/// # Errors
/// Returns an error if the model has several inputs, or if the shape cannot be derived from the length of the body.
pub fn decode_raw(body: &[u8], signature: &Signature) -> Result<InferRequest> {
    let only = signature.only_input().and_then(|(index, port)| Some((index, port, port.tensor()?)));
    let Some((index, port, wanted)) = only else {
        let known = signature.input_names();
        let message = format!("a body without JSON is only for models with one input; the model has {known}");
        return Err(Error::invalid(message));
    };
    let what = format_args!("input \"{}\"", port.name);
    let dims = wanted.shape.as_deref().unwrap_or(&[Dim::Free(None)]);
    let free = dims.iter().filter(|dim| matches!(dim, Dim::Free(_))).count();
    let fixed = dims
        .iter()
        .filter_map(|dim| if let Dim::Fixed(length) = dim { usize::try_from(*length).ok() } else { None });
    let row = fixed.product::<usize>().checked_mul(wanted.datatype.bits().unwrap_or(0) / 8);
    // A string is one element, whatever its length.
    let length = if wanted.datatype == DataType::Bytes {
        Some(1)
    } else {
        row.and_then(|row| body.len().checked_div(row))
    };
    let Some(length) = length.filter(|_| free <= 1) else {
        let message = format!(
            "{what}: its shape {} cannot be derived from the number of bytes: send JSON with `shape`",
            wanted.shape_text()
        );
        return Err(Error::invalid(message));
    };
    let shape =
        dims.iter().map(|dim| if let Dim::Fixed(length) = dim { *length } else { length as i64 }).collect();
    let mut inputs = Inputs::new(signature);
    inputs.set(signature, index, raw::read(wanted.datatype, shape, body, what)?)?;
    let (outputs, forms) = forms(Vec::new(), true, signature);
    Ok(InferRequest { id: None, inputs, outputs, forms, timeout: None })
}

/// Decodes the list under `inputs`; tensors that are not in the JSON are taken from `beside`.
pub(crate) fn decode_inputs(
    reader: &mut Reader<'_>,
    signature: &Signature,
    inputs: &mut Inputs,
    beside: &mut Beside<'_>,
) -> Result<()> {
    reader.array(|reader| {
        let (index, tensor) = input(reader, signature, beside)?;
        inputs.set(signature, index, tensor)
    })
}

fn input(reader: &mut Reader<'_>, signature: &Signature, beside: &mut Beside<'_>) -> Result<(usize, Tensor)> {
    let (mut name, mut shape, mut datatype) = (None, None, None);
    let (mut data_at, mut size, mut shared) = (None, None, SharedMemoryParameters::default());
    let mut elements = None;
    reader.members(|reader, key| {
        match key {
            "name" => name = Some(reader.string()?),
            "shape" => shape = Some(read_shape(reader)?),
            "datatype" => datatype = Some(reader.string()?),
            "data" => {
                if data_at.replace(reader.position()).is_some() {
                    return Err(reader.error("`data` is given twice"));
                }
                match &datatype {
                    // The usual order of members: the datatype is known, so the data is read straight into the tensor.
                    Some(datatype) => {
                        elements = Some(read_data(reader, datatype, shape.as_deref(), name.as_deref())?);
                    }
                    None => reader.skip()?,
                }
            }
            "parameters" => reader.members(|reader, key| match key {
                "binary_data_size" => {
                    size = Some(reader.natural()?);
                    Ok(())
                }
                _ => shared_parameter(reader, key, &mut shared),
            })?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let missing = |field: &str| match &name {
        Some(name) => Error::invalid(format!("input \"{name}\": `{field}` is missing")),
        None => Error::invalid(format!("an input has no `{field}`")),
    };
    let name = name.as_deref().ok_or_else(|| missing("name"))?;
    let (index, port) = known_input(signature, name)?;
    let datatype = wanted_datatype(port, datatype.as_deref().ok_or_else(|| missing("datatype"))?)?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    let what = format_args!("input \"{name}\"");
    if let Some(window) = shared.find(beside.regions, what)? {
        if data_at.is_some() || size.is_some() {
            let message =
                format!("{what}: an input in shared memory must not have `data` or `binary_data_size`");
            return Err(Error::invalid(message));
        }
        return Ok((index, window.tensor(datatype, shape, what)?));
    }
    let tensor = match (elements, data_at, size) {
        (_, Some(_), Some(_)) => {
            return Err(Error::invalid(format!("{what}: it has both `data` and `binary_data_size`")));
        }
        (_, None, Some(size)) => {
            let Some((bytes, rest)) = beside.binary.split_at_checked(size) else {
                let left = beside.binary.len();
                return Err(Error::invalid(format!(
                    "{what}: `binary_data_size` is {size}, but {left} bytes are left of the body: check \
                     Inference-Header-Content-Length"
                )));
            };
            beside.binary = rest;
            raw::read(datatype, shape, bytes, what)?
        }
        (Some(elements), ..) => elements.finish_as(shape, what)?,
        (None, Some(at), None) => {
            let elements = read_data(&mut reader.again(at), datatype.name(), Some(&shape), Some(name))?;
            elements.finish_as(shape, what)?
        }
        (None, None, None) => return Err(missing("data")),
    };
    Ok((index, tensor))
}

/// Returns the input with this name and its index; the error lists the inputs that exist.
pub(crate) fn known_input<'s>(signature: &'s Signature, name: &str) -> Result<(usize, &'s Port)> {
    signature.input(name).ok_or_else(|| {
        let known = signature.input_names();
        Error::invalid(format!("the model has no input \"{name}\"; its inputs are {known}"))
    })
}

/// Returns the datatype that a request names, if it is the datatype of the model's input.
pub(crate) fn wanted_datatype(port: &Port, given: &str) -> Result<DataType> {
    let name = &port.name;
    let wanted = port.tensor().ok_or_else(|| {
        let kind = &port.kind;
        Error::invalid(format!("input \"{name}\" is a {kind}, which this protocol cannot carry"))
    })?;
    let wanted = wanted.datatype;
    if given == wanted.name() {
        return Ok(wanted);
    }
    Err(Error::invalid(format!("input \"{name}\": datatype {given} does not match {wanted}")))
}

fn read_data(
    reader: &mut Reader<'_>,
    datatype: &str,
    shape: Option<&[i64]>,
    name: Option<&str>,
) -> Result<TensorReader> {
    let what = || format!("input \"{}\"", name.unwrap_or("?"));
    let Some(parsed) = DataType::parse(datatype) else {
        return Err(Error::invalid(format!("{}: unknown datatype \"{datatype}\"", what())));
    };
    let mut elements = TensorReader::new(parsed).map_err(|error| error.context(what()))?;
    if let Some(expected) = shape.and_then(element_count) {
        elements.reserve(expected, reader);
    }
    elements.read(reader).map_err(|error| error.context(what()))?;
    Ok(elements)
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Shape> {
    // More dimensions than any model has. Limits the memory that a client can make the server use.
    const MAX_RANK: usize = 64;
    let start = reader.position();
    let wanted = |reader: &Reader<'_>| {
        reader.error_at(start, format_args!("`shape` must be a list of up to {MAX_RANK} integers"))
    };
    if reader.peek() != Some(b'[') {
        return Err(wanted(reader));
    }
    let mut shape = Shape::new();
    let read = reader.array(|reader| {
        if shape.len() == MAX_RANK {
            return Err(wanted(reader));
        }
        shape.push(integer(reader, DataType::Int64)?);
        Ok(())
    });
    read.map_err(|error| error.context("`shape`"))?;
    Ok(shape)
}

/// Reads one of the parameters that say where in shared memory a tensor is; skips other parameters.
fn shared_parameter(reader: &mut Reader<'_>, key: &str, shared: &mut SharedMemoryParameters) -> Result<()> {
    match key {
        shared_memory::REGION => shared.region = Some(reader.string()?.into_owned()),
        shared_memory::OFFSET => shared.offset = reader.natural()?,
        shared_memory::BYTE_SIZE => shared.len = Some(reader.natural()?),
        _ => reader.skip()?,
    }
    Ok(())
}

/// A requested output, and its form as far as the request states it.
struct Requested {
    wanted: Wanted,
    binary: Option<bool>,
    classes: usize,
    window: Option<Window>,
}

fn requested_output(
    reader: &mut Reader<'_>,
    signature: &Signature,
    regions: &dyn Regions,
    requested: &mut Vec<Requested>,
) -> Result<()> {
    let (mut name, mut binary, mut classes, mut shared) = (None, None, 0, SharedMemoryParameters::default());
    reader.members(|reader, key| match key {
        "name" => {
            name = Some(reader.string()?.into_owned());
            Ok(())
        }
        "parameters" => reader.members(|reader, key| {
            match key {
                "binary_data" => binary = Some(reader.boolean()?),
                "classification" => classes = reader.natural()?,
                _ => shared_parameter(reader, key, &mut shared)?,
            }
            Ok(())
        }),
        _ => reader.skip(),
    })?;
    let name = name.ok_or_else(|| Error::invalid("a requested output has no `name`"))?;
    let wanted = known_output(signature, &name)?;
    if requested.iter().any(|other| other.wanted == wanted) {
        return Err(Error::invalid(format!("output \"{name}\" is requested twice")));
    }
    let window = shared.find(regions, format_args!("output \"{name}\""))?;
    requested.push(Requested { wanted, binary, classes, window });
    Ok(())
}

/// Returns the outputs and their forms: all outputs if none is requested, and no forms if all have the default form.
fn forms(requested: Vec<Requested>, in_binary: bool, signature: &Signature) -> (Vec<usize>, Vec<Form>) {
    if requested.is_empty() {
        let all = all_outputs(signature);
        let form = |&index: &usize| Form {
            binary: true,
            wanted: Wanted { index, element: None },
            ..Form::default()
        };
        let forms = if in_binary { all.iter().map(form).collect() } else { Vec::new() };
        return (all, forms);
    }
    let form = |one: Requested| Form {
        // An output in shared memory is not sent as bytes too.
        binary: one.binary.unwrap_or(in_binary) && one.window.is_none(),
        classes: one.classes,
        window: one.window,
        wanted: one.wanted,
    };
    let (outputs, mut forms) = in_order(requested.into_iter().map(form).collect());
    let is_default = |form: &Form| !form.binary && form.classes == 0 && form.window.is_none();
    if forms.iter().all(|form| is_default(form) && form.wanted.element.is_none()) {
        forms.clear();
    }
    (outputs, forms)
}

/// Returns the outputs of these forms, each once, and the forms in their order: several elements of a sequence are one
/// output.
pub(crate) fn in_order(mut forms: Vec<Form>) -> (Vec<usize>, Vec<Form>) {
    let outputs = indexes(forms.iter().map(|form| form.wanted));
    if outputs.len() < forms.len() {
        forms.sort_by_key(|form| outputs.iter().position(|&index| index == form.wanted.index));
    }
    (outputs, forms)
}

#[cfg(test)]
mod tests;
