//! Open Inference Protocol V2 over HTTP: infer requests in, answers out, tensors as JSON or as bytes behind it.
//!
//! Sources: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md>,
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>

mod answer;
mod classes;

use crate::json::{Reader, TensorReader, integer};
use crate::raw;
use crate::shared_memory::{self, Place, Regions, Window};
use drisse_core::{DataType, Dim, Error, Inputs, Port, Result, Shape, Signature, Tensor, element_count};
use std::time::Duration;

pub(crate) use answer::carried;
pub use answer::{Answer, AnswerParts, AnswerSink};
pub(crate) use classes::classes;

/// A decoded infer request.
#[derive(Debug)]
pub struct InferRequest {
    /// The client's `id`, to be given back.
    pub id: Option<String>,
    /// The inputs, by their place in the signature.
    pub inputs: Inputs,
    /// Places of the outputs asked for, in that order; all of them when the request names none.
    pub outputs: Vec<usize>,
    /// The form of each of `outputs`; where it is shorter, the default.
    pub forms: Vec<Form>,
    /// How long the client gives it from now on, if it says so: the parameter `timeout`, in microseconds.
    pub timeout: Option<Duration>,
}

/// The parameter `timeout` of Triton's schedule policy; 0 says as much as none.
pub(crate) fn timeout(microseconds: usize) -> Option<Duration> {
    (microseconds > 0).then(|| Duration::from_micros(microseconds as u64))
}

/// How an output is to be given.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// As bytes behind the JSON.
    pub binary: bool,
    /// Not the output itself, but its so many highest elements as `VALUE:INDEX`; 0 for the output.
    pub classes: usize,
    /// In memory that its client shares, and not in the answer.
    pub window: Option<Window>,
}

/// Where the tensors are that are not in a request's JSON.
pub(crate) struct Beside<'a> {
    /// What is left of the bytes behind it.
    pub(crate) binary: &'a [u8],
    /// Memory that clients share.
    pub(crate) regions: &'a dyn Regions,
}

/// Decodes the body of `POST /v2/models/NAME/infer`: its JSON, and the `binary` tensors behind that, or those that are
/// in one of `regions`.
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
    reader.object(|reader, key| match key {
        "id" => {
            id = if reader.word_null() { None } else { Some(reader.string()?.into_owned()) };
            Ok(())
        }
        "inputs" => {
            if std::mem::replace(&mut has_inputs, true) {
                return Err(Error::invalid("`inputs` is given twice"));
            }
            decode_inputs(reader, signature, &mut inputs, &mut beside)
        }
        "outputs" => reader.array(|reader| requested_output(reader, signature, regions, &mut requested)),
        "parameters" => reader.object(|reader, key| match key {
            "binary_data_output" => {
                in_binary = reader.boolean()?;
                Ok(())
            }
            "timeout" => {
                limit = timeout(reader.natural()?);
                Ok(())
            }
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
        return Err(Error::invalid(format!("{left} bytes are left behind the last binary input")));
    }
    let (outputs, forms) = forms(requested, in_binary, signature);
    Ok(InferRequest { id, inputs, outputs, forms, timeout: limit })
}

/// Decodes a body without JSON (`Inference-Header-Content-Length: 0`): all of it is the only input, and all outputs
/// are wanted in binary.
pub fn decode_raw(body: &[u8], signature: &Signature) -> Result<InferRequest> {
    let only = signature.only_input().and_then(|(place, port)| Some((place, port, port.tensor()?)));
    let Some((place, port, wanted)) = only else {
        let known = signature.input_names();
        let message = format!("a body without JSON is for models with one input; this one's are {known}");
        return Err(Error::invalid(message));
    };
    let what = format_args!("input \"{}\"", port.name);
    let dims = wanted.shape.as_deref().unwrap_or(&[Dim::Free(None)]);
    let free = dims.iter().filter(|dim| matches!(dim, Dim::Free(_))).count();
    let fixed = dims
        .iter()
        .filter_map(|dim| if let Dim::Fixed(length) = dim { usize::try_from(*length).ok() } else { None });
    let row = fixed.product::<usize>().checked_mul(wanted.datatype.bits().unwrap_or(0) / 8);
    // One string is one element, however long.
    let length = if wanted.datatype == DataType::Bytes {
        Some(1)
    } else {
        row.and_then(|row| body.len().checked_div(row))
    };
    let Some(length) = length.filter(|_| free <= 1) else {
        let message = format!(
            "{what}: its shape {} does not follow from the number of bytes: send JSON with `shape`",
            wanted.shape_text()
        );
        return Err(Error::invalid(message));
    };
    let shape =
        dims.iter().map(|dim| if let Dim::Fixed(length) = dim { *length } else { length as i64 }).collect();
    let mut inputs = Inputs::new(signature);
    inputs.set(signature, place, raw::read(wanted.datatype, shape, body, what)?)?;
    let (outputs, forms) = forms(Vec::new(), true, signature);
    Ok(InferRequest { id: None, inputs, outputs, forms, timeout: None })
}

/// Decodes the list under `inputs`, taking what comes as bytes from `beside`.
pub(crate) fn decode_inputs(
    reader: &mut Reader<'_>,
    signature: &Signature,
    inputs: &mut Inputs,
    beside: &mut Beside<'_>,
) -> Result<()> {
    reader.array(|reader| {
        let (place, tensor) = input(reader, signature, beside)?;
        inputs.set(signature, place, tensor)
    })
}

fn input(reader: &mut Reader<'_>, signature: &Signature, beside: &mut Beside<'_>) -> Result<(usize, Tensor)> {
    let (mut name, mut shape, mut datatype) = (None, None, None);
    let (mut data_at, mut size, mut shared) = (None, None, Place::default());
    let mut elements = None;
    reader.object(|reader, key| {
        match key {
            "name" => name = Some(reader.string()?),
            "shape" => shape = Some(read_shape(reader)?),
            "datatype" => datatype = Some(reader.string()?),
            "data" => {
                if data_at.replace(reader.position()).is_some() {
                    return Err(reader.error("`data` is given twice"));
                }
                match &datatype {
                    // The usual order: the datatype is known, the numbers go straight into the tensor.
                    Some(datatype) => {
                        elements = Some(read_data(reader, datatype, shape.as_deref(), name.as_deref())?);
                    }
                    None => reader.skip()?,
                }
            }
            "parameters" => reader.object(|reader, key| match key {
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
    let (place, port) = known_input(signature, name)?;
    let datatype = wanted_datatype(port, datatype.as_deref().ok_or_else(|| missing("datatype"))?)?;
    let shape = shape.ok_or_else(|| missing("shape"))?;
    let what = format_args!("input \"{name}\"");
    if let Some(window) = shared.find(beside.regions, what)? {
        if data_at.is_some() || size.is_some() {
            let message =
                format!("{}: it is in shared memory and has `data` or `binary_data_size` too", what);
            return Err(Error::invalid(message));
        }
        return Ok((place, window.tensor(datatype, shape, what)?));
    }
    let tensor = match (elements, data_at, size) {
        (_, Some(_), Some(_)) => {
            return Err(Error::invalid(format!("{}: it has both `data` and `binary_data_size`", what)));
        }
        (_, None, Some(size)) => {
            let Some((bytes, rest)) = beside.binary.split_at_checked(size) else {
                let left = beside.binary.len();
                return Err(Error::invalid(format!(
                    "{}: {size} bytes are announced, {left} are left of the body: is Inference-Header-Content-Length right?",
                    what
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
    Ok((place, tensor))
}

/// The input with this name, or which there are.
pub(crate) fn known_input<'s>(signature: &'s Signature, name: &str) -> Result<(usize, &'s Port)> {
    signature.input(name).ok_or_else(|| {
        let known = signature.input_names();
        Error::invalid(format!("the model has no input \"{name}\"; its inputs are {known}"))
    })
}

/// The datatype a request names, if it is the one the model wants.
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
        return Err(Error::invalid(format!("{}: there is no datatype \"{datatype}\"", what())));
    };
    let mut elements = TensorReader::new(parsed).map_err(|error| error.context(what()))?;
    if let Some(expected) = shape.and_then(element_count) {
        elements.reserve(expected, reader);
    }
    elements.read(reader).map_err(|error| error.context(what()))?;
    Ok(elements)
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Shape> {
    // More dimensions than any model has; bounds what a client can make us keep.
    const MAX_RANK: usize = 64;
    let start = reader.position();
    let wanted = |reader: &Reader<'_>| {
        reader.error_at(start, format_args!("`shape` is a list of up to {MAX_RANK} whole numbers"))
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

/// One of the parameters that say where in shared memory a tensor is; others are skipped.
fn shared_parameter(reader: &mut Reader<'_>, key: &str, shared: &mut Place) -> Result<()> {
    match key {
        shared_memory::REGION => shared.region = Some(reader.string()?.into_owned()),
        shared_memory::OFFSET => shared.offset = reader.natural()?,
        shared_memory::BYTE_SIZE => shared.len = Some(reader.natural()?),
        _ => reader.skip()?,
    }
    Ok(())
}

/// An output asked for: its place, whether it is to come as bytes, how many classes of it.
struct Requested {
    place: usize,
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
    let (mut name, mut binary, mut classes, mut shared) = (None, None, 0, Place::default());
    reader.object(|reader, key| match key {
        "name" => {
            name = Some(reader.string()?.into_owned());
            Ok(())
        }
        "parameters" => reader.object(|reader, key| {
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
    let place = known_output(signature, &name)?;
    if requested.iter().any(|other| other.place == place) {
        return Err(Error::invalid(format!("output \"{name}\" is asked for twice")));
    }
    let window = shared.find(regions, format_args!("output \"{name}\""))?;
    requested.push(Requested { place, binary, classes, window });
    Ok(())
}

/// The place of the output with this name, or which there are.
pub(crate) fn known_output(signature: &Signature, name: &str) -> Result<usize> {
    signature.output(name).map(|(place, _)| place).ok_or_else(|| {
        let known = signature.output_names();
        Error::invalid(format!("the model has no output \"{name}\"; its outputs are {known}"))
    })
}

/// The outputs and their forms; all outputs where none is asked for, no forms where all are the default.
fn forms(requested: Vec<Requested>, in_binary: bool, signature: &Signature) -> (Vec<usize>, Vec<Form>) {
    if requested.is_empty() {
        let all: Vec<_> = (0..signature.outputs.len()).collect();
        let forms =
            if in_binary { vec![Form { binary: true, ..Form::default() }; all.len()] } else { Vec::new() };
        return (all, forms);
    }
    let places = requested.iter().map(|one| one.place).collect();
    let form = |one: Requested| Form {
        // What is in shared memory is nowhere else.
        binary: one.binary.unwrap_or(in_binary) && one.window.is_none(),
        classes: one.classes,
        window: one.window,
    };
    let mut forms: Vec<_> = requested.into_iter().map(form).collect();
    if forms.iter().all(|form| !form.binary && form.classes == 0 && form.window.is_none()) {
        forms.clear();
    }
    (places, forms)
}

#[cfg(test)]
mod tests;
