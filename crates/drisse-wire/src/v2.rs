//! Open Inference Protocol V2, JSON form: infer requests in, answers out.
//!
//! Source: <https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md>

use crate::json::{Reader, TensorReader, Writer};
use drisse_core::{
    Buffer, Data, DataType, Error, Inputs, Result, Shape, Signature, Sink, Tensor, TensorView, Value,
    ValueView,
};

/// A decoded infer request.
#[derive(Debug)]
pub struct InferRequest {
    /// The client's `id`, to be given back.
    pub id: Option<String>,
    /// The inputs, by their place in the signature.
    pub inputs: Inputs,
    /// Places of the outputs asked for, in that order; all of them when the request names none.
    pub outputs: Vec<usize>,
}

/// Decodes the body of `POST /v2/models/NAME/infer`.
pub fn decode(body: &[u8], signature: &Signature) -> Result<InferRequest> {
    let mut reader = Reader::new(body);
    let mut request = InferRequest { id: None, inputs: Inputs::new(signature), outputs: Vec::new() };
    let mut has_inputs = false;
    reader.object(|reader, key| match key {
        "id" => {
            request.id = if reader.peek() == Some(b'n') {
                reader.skip()?;
                None
            } else {
                Some(reader.string()?.into_owned())
            };
            Ok(())
        }
        "inputs" => {
            if std::mem::replace(&mut has_inputs, true) {
                return Err(Error::invalid("`inputs` is given twice"));
            }
            decode_inputs(reader, signature, &mut request.inputs)
        }
        "outputs" => reader.array(|reader| requested_output(reader, signature, &mut request.outputs)),
        _ => reader.skip(),
    })?;
    reader.end()?;
    if !has_inputs {
        return Err(Error::invalid(
            "the request has no `inputs`: a list of tensors with name, shape, datatype, data",
        ));
    }
    if request.outputs.is_empty() {
        request.outputs.extend(0..signature.outputs.len());
    }
    Ok(request)
}

/// Decodes the list under `inputs`.
pub(crate) fn decode_inputs(
    reader: &mut Reader<'_>,
    signature: &Signature,
    inputs: &mut Inputs,
) -> Result<()> {
    reader.array(|reader| {
        let (place, tensor) = input(reader, signature)?;
        inputs.set(signature, place, tensor)
    })
}

fn input(reader: &mut Reader<'_>, signature: &Signature) -> Result<(usize, Tensor)> {
    let (mut name, mut shape, mut datatype) = (None, None, None);
    let mut data_at = None;
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
                    Some(datatype) => elements = Some(read_data(reader, datatype, name.as_deref())?),
                    None => reader.skip()?,
                }
            }
            "parameters" => parameters(reader, name.as_deref())?,
            _ => reader.skip()?,
        }
        Ok(())
    })?;
    let missing = |field: &str| match &name {
        Some(name) => Error::invalid(format!("input \"{name}\": `{field}` is missing")),
        None => Error::invalid(format!("an input has no `{field}`")),
    };
    let Some(name) = name.as_deref() else { return Err(missing("name")) };
    let Some((place, port)) = signature.input(name) else {
        let known = signature.input_names();
        return Err(Error::invalid(format!("the model has no input \"{name}\"; its inputs are {known}")));
    };
    let datatype = datatype.as_deref().ok_or_else(|| missing("datatype"))?;
    let wanted = port.tensor().ok_or_else(|| {
        let kind = &port.kind;
        Error::invalid(format!("input \"{name}\" is a {kind}, which this protocol cannot carry"))
    })?;
    if datatype != wanted.datatype.name() {
        let wanted = wanted.datatype;
        return Err(Error::invalid(format!("input \"{name}\": datatype {datatype} does not match {wanted}")));
    }
    let shape = shape.ok_or_else(|| missing("shape"))?;
    let elements = match (elements, data_at) {
        (Some(elements), _) => elements,
        (None, Some(at)) => read_data(&mut reader.again(at), datatype, Some(name))?,
        (None, None) => return Err(missing("data")),
    };
    Ok((place, elements.finish_as(shape, &format!("input \"{name}\""))?))
}

fn read_data(reader: &mut Reader<'_>, datatype: &str, name: Option<&str>) -> Result<TensorReader> {
    let what = || format!("input \"{}\"", name.unwrap_or("?"));
    let Some(parsed) = DataType::parse(datatype) else {
        return Err(Error::invalid(format!("{}: there is no datatype \"{datatype}\"", what())));
    };
    let mut elements = TensorReader::new(parsed).map_err(|error| error.context(what()))?;
    elements.read(reader).map_err(|error| error.context(what()))?;
    Ok(elements)
}

fn read_shape(reader: &mut Reader<'_>) -> Result<Shape> {
    // More dimensions than any model has; bounds what a client can make us keep.
    const MAX_RANK: usize = 64;
    let start = reader.position();
    let mut dims = TensorReader::new(DataType::Int64)?;
    let in_shape = |error: Error| error.context("`shape`");
    dims.read(reader).map_err(in_shape)?;
    let dims = dims.finish();
    let Data::Raw(buffer) = &dims.data else { unreachable!("INT64 elements are raw") };
    if dims.shape.len() != 1 || buffer.len() > MAX_RANK * size_of::<i64>() {
        return Err(
            reader.error_at(start, format_args!("`shape` is a list of up to {MAX_RANK} whole numbers"))
        );
    }
    Ok(Shape::from_slice(buffer.elements()))
}

fn parameters(reader: &mut Reader<'_>, name: Option<&str>) -> Result<()> {
    reader.object(|reader, key| {
        if key == "binary_data_size" {
            let name = name.unwrap_or("?");
            return Err(Error::invalid(format!(
                "input \"{name}\" comes as binary data, which this server does not take yet: send `data`"
            )));
        }
        reader.skip()
    })
}

fn requested_output(reader: &mut Reader<'_>, signature: &Signature, outputs: &mut Vec<usize>) -> Result<()> {
    let mut name = None;
    reader.object(|reader, key| {
        if key == "name" {
            name = Some(reader.string()?.into_owned());
            return Ok(());
        }
        reader.skip()
    })?;
    let name = name.ok_or_else(|| Error::invalid("a requested output has no `name`"))?;
    let Some((place, _)) = signature.output(&name) else {
        let known = signature.output_names();
        return Err(Error::invalid(format!("the model has no output \"{name}\"; its outputs are {known}")));
    };
    if outputs.contains(&place) {
        return Err(Error::invalid(format!("output \"{name}\" is asked for twice")));
    }
    outputs.push(place);
    Ok(())
}

/// What of an answer is the same for every request to a model, escaped once.
#[derive(Debug)]
pub struct AnswerParts {
    head: String,
    outputs: Vec<String>,
    /// Each output's name, quoted.
    names: Vec<String>,
}

impl AnswerParts {
    /// For the model `name` at `version`.
    pub fn new(name: &str, version: &str, signature: &Signature) -> Self {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let head = format!("{{\"model_name\":{},\"model_version\":{}", quote(name), quote(version));
        let names: Vec<_> = signature.outputs.iter().map(|port| quote(&port.name)).collect();
        let outputs = names.iter().map(|name| format!("{{\"name\":{name},\"datatype\":\"")).collect();
        Self { head, outputs, names }
    }
}

/// Writes an answer output by output.
#[derive(Debug)]
pub struct AnswerSink<P> {
    parts: P,
    out: Writer,
    any: bool,
}

impl<P: AsRef<AnswerParts>> AnswerSink<P> {
    /// The start of an answer to the request with this `id`.
    pub fn new(parts: P, id: Option<&str>) -> Self {
        let mut out = Writer::new();
        out.raw(&parts.as_ref().head);
        if let Some(id) = id {
            out.raw(",\"id\":");
            out.string(id);
        }
        out.raw(",\"outputs\":[");
        Self { parts, out, any: false }
    }

    /// The whole answer, and how many NaN and infinities it prints as `null`.
    pub fn finish(mut self) -> (Vec<u8>, u64) {
        self.out.raw("]}");
        let not_finite = self.out.not_finite();
        (self.out.into_bytes(), not_finite)
    }

    fn tensor(&mut self, place: usize, tensor: &TensorView<'_>, keys: Option<&Tensor>) -> Result<()> {
        if std::mem::replace(&mut self.any, true) {
            self.out.raw(",");
        }
        self.out.raw(&self.parts.as_ref().outputs[place]);
        self.out.raw(tensor.datatype.name());
        self.out.raw("\",\"shape\":");
        self.out.shape(tensor.shape);
        if let Some(keys) = keys {
            self.out.raw(",\"parameters\":{\"keys\":");
            // A parameter is a string, a number or a boolean: the list travels as JSON in a string.
            let mut list = Writer::new();
            list.flat(&keys.view())?;
            self.out.string(list.into_bytes());
            self.out.raw("}");
        }
        self.out.raw(",\"data\":");
        self.out.flat(tensor)?;
        self.out.raw("}");
        Ok(())
    }
}

impl<P: AsRef<AnswerParts>> Sink for AnswerSink<P> {
    fn output(&mut self, place: usize, value: ValueView<'_>) -> Result<()> {
        match value {
            ValueView::Tensor(tensor) => self.tensor(place, &tensor, None),
            ValueView::Other(Value::Tensor(tensor)) => self.tensor(place, &tensor.view(), None),
            ValueView::Other(other) => match table(other) {
                Some((keys, rows)) => self.tensor(place, &rows.view(), Some(&keys)),
                None => Err(Error::invalid(format!(
                    "output {} is no tensor, and this protocol carries nothing else: \
                     name the outputs you want in `outputs`, or send the request to /score",
                    self.parts.as_ref().names[place]
                ))),
            },
        }
    }
}

/// Maps of equal keys (a classifier's zipmap) as those keys and one row of values per map.
fn table(value: &Value) -> Option<(Tensor, Tensor)> {
    let Value::Sequence(maps) = value else { return None };
    let mut all: Option<(&Tensor, DataType, Buffer)> = None;
    for map in maps {
        let Value::Map { keys, values } = map else { return None };
        let Data::Raw(bytes) = &values.data else { return None };
        match &mut all {
            None => all = Some((keys, values.datatype, bytes.clone())),
            Some((first, datatype, rows)) if *first == keys && *datatype == values.datatype => {
                rows.extend(bytes.bytes());
            }
            Some(_) => return None,
        }
    }
    let (keys, datatype, rows) = all?;
    let shape = Shape::from_slice(&[maps.len() as i64, keys.shape.first().copied()?]);
    Some((keys.clone(), Tensor { datatype, shape, data: Data::Raw(rows) }))
}

#[cfg(test)]
#[path = "v2_tests.rs"]
mod tests;
