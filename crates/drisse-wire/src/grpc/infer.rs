//! `ModelInfer`: requests with raw contents (bytes) or typed contents (lists of values), responses with raw contents.

use super::inference::infer_parameter::ParameterChoice;
use super::inference::model_infer_request::InferRequestedOutputTensor;
use super::inference::model_infer_response::InferOutputTensor;
use super::inference::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::json::{BytesForm, Writer};
use crate::raw;
use crate::shared_memory::{BYTE_SIZE, OFFSET, REGION, Regions, SharedMemoryParameters};
use crate::v2::{
    Form, InferRequest, SEQUENCE, Wanted, all_outputs, classes, in_order, known_input, known_output,
    no_sequences, timeout, wanted_datatype,
};
use drisse_core::{
    Buffer, Data, DataType, Element, Error, Inputs, Result, Shape, Signature, Sink, Strings, Tensor,
    TensorView, ValueView, element_count,
};
use std::collections::HashMap;
use std::fmt;

/// Decodes a request to the model with this signature.
///
/// # Errors
/// Returns an error that names the input, output or parameter that does not fit the signature or the protocol.
pub fn decode(
    request: ModelInferRequest,
    regions: &dyn Regions,
    signature: &Signature,
) -> Result<InferRequest> {
    let raw_contents = request.raw_input_contents;
    let is_raw = !raw_contents.is_empty();
    // Inputs in shared memory have no raw contents.
    let inputs = request.inputs.iter().filter(|input| !input.parameters.contains_key(REGION)).count();
    if is_raw && raw_contents.len() != inputs {
        let tensors = raw_contents.len();
        let message =
            format!("raw_input_contents has {tensors} tensors for {inputs} inputs: send one for each input");
        return Err(Error::invalid(message));
    }
    let mut inputs = Inputs::new(signature);
    let mut raw_contents = raw_contents.into_iter();
    for input in request.inputs {
        let (index, port) = known_input(signature, &input.name)?;
        let datatype = wanted_datatype(port, &input.datatype)?;
        let what = format_args!("input \"{}\"", input.name);
        let shape = Shape::from_slice(&input.shape);
        if let Some(window) = shared_memory_of(&input.parameters)?.find(regions, what)? {
            if input.contents.is_some() {
                let message = format!("{what}: an input in shared memory must not have contents");
                return Err(Error::invalid(message));
            }
            inputs.set(signature, index, window.tensor(datatype, shape, what)?)?;
            continue;
        }
        let tensor = match (raw_contents.next(), input.contents) {
            (Some(_), Some(_)) => {
                let message = format!("{what}: it has both contents and raw_input_contents");
                return Err(Error::invalid(message));
            }
            (Some(bytes), None) => raw::read(datatype, shape, &bytes, what)?,
            (None, Some(contents)) => typed_tensor(datatype, shape, contents, what)?,
            (None, None) if element_count(&shape) == Some(0) => raw::read(datatype, shape, &[], what)?,
            (None, None) => {
                return Err(Error::invalid(format!(
                    "{what}: it has neither contents nor raw_input_contents"
                )));
            }
        };
        inputs.set(signature, index, tensor)?;
    }
    let mut forms: Vec<Form> = Vec::new();
    for InferRequestedOutputTensor { name, parameters } in request.outputs {
        let wanted = known_output(signature, &name)?;
        if forms.iter().any(|other| other.wanted == wanted) {
            return Err(Error::invalid(format!("output \"{name}\" is requested twice")));
        }
        let window = shared_memory_of(&parameters)?.find(regions, format_args!("output \"{name}\""))?;
        forms.push(Form { wanted, binary: true, classes: class_count(&parameters)?, window });
    }
    let (outputs, forms) = if forms.is_empty() { (all_outputs(signature), forms) } else { in_order(forms) };
    let sequence = match request.parameters.get(SEQUENCE).map(|given| &given.parameter_choice) {
        None | Some(Some(ParameterChoice::Int64Param(0) | ParameterChoice::Uint64Param(0))) => false,
        Some(Some(ParameterChoice::StringParam(id))) => !id.is_empty(),
        Some(_) => true,
    };
    if sequence {
        return Err(no_sequences());
    }
    let id = (!request.id.is_empty()).then_some(request.id);
    let timeout = natural(&request.parameters, "timeout")?.and_then(timeout);
    Ok(InferRequest { id, inputs, outputs, forms, timeout })
}

type Parameters = HashMap<String, InferParameter>;

fn class_count(parameters: &Parameters) -> Result<usize> {
    Ok(natural(parameters, "classification")?.unwrap_or(0))
}

fn natural(parameters: &Parameters, name: &str) -> Result<Option<usize>> {
    let Some(given) = parameters.get(name) else { return Ok(None) };
    let number = match given.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => usize::try_from(number).ok(),
        Some(ParameterChoice::Uint64Param(number)) => usize::try_from(number).ok(),
        _ => None,
    };
    number.map(Some).ok_or_else(|| Error::invalid(format!("`{name}` must be a non-negative integer")))
}

/// Reads the parameters that say where in shared memory a tensor is.
fn shared_memory_of(parameters: &Parameters) -> Result<SharedMemoryParameters> {
    let region = match parameters.get(REGION).map(|given| &given.parameter_choice) {
        None => None,
        Some(Some(ParameterChoice::StringParam(region))) => Some(region.clone()),
        Some(_) => return Err(Error::invalid(format!("`{REGION}` must be a string"))),
    };
    let (offset, len) = (natural(parameters, OFFSET)?.unwrap_or(0), natural(parameters, BYTE_SIZE)?);
    Ok(SharedMemoryParameters { region, offset, len })
}

/// Reads a tensor from the field of its datatype; the other fields must be empty.
fn typed_tensor(
    datatype: DataType,
    shape: Shape,
    contents: InferTensorContents,
    what: fmt::Arguments<'_>,
) -> Result<Tensor> {
    let InferTensorContents {
        bool_contents: bools,
        int_contents: ints,
        int64_contents: int64s,
        uint_contents: uints,
        uint64_contents: uint64s,
        fp32_contents: fp32s,
        fp64_contents: fp64s,
        bytes_contents: strings,
    } = contents;
    let all = [
        bools.len(),
        ints.len(),
        int64s.len(),
        uints.len(),
        uint64s.len(),
        fp32s.len(),
        fp64s.len(),
        strings.len(),
    ];
    let given: usize = all.iter().sum();
    let out_of_range = |value: i64| Error::invalid(format!("{what}: {value} is out of range for {datatype}"));
    let (data, taken) = match datatype {
        DataType::Bool => (numbers(bools.iter().map(|&value| Ok(u8::from(value))))?, bools.len()),
        DataType::Int8 => {
            (numbers(ints.iter().map(|&v| i8::try_from(v).map_err(|_| out_of_range(v.into()))))?, ints.len())
        }
        DataType::Int16 => {
            (numbers(ints.iter().map(|&v| i16::try_from(v).map_err(|_| out_of_range(v.into()))))?, ints.len())
        }
        DataType::Int32 => (numbers(ints.iter().map(|&v| Ok(v)))?, ints.len()),
        DataType::Int64 => (numbers(int64s.iter().map(|&v| Ok(v)))?, int64s.len()),
        DataType::Uint8 => (
            numbers(uints.iter().map(|&v| u8::try_from(v).map_err(|_| out_of_range(v.into()))))?,
            uints.len(),
        ),
        DataType::Uint16 => (
            numbers(uints.iter().map(|&v| u16::try_from(v).map_err(|_| out_of_range(v.into()))))?,
            uints.len(),
        ),
        DataType::Uint32 => (numbers(uints.iter().map(|&v| Ok(v)))?, uints.len()),
        DataType::Uint64 => (numbers(uint64s.iter().map(|&v| Ok(v)))?, uint64s.len()),
        DataType::Fp32 => (numbers(fp32s.iter().map(|&v| Ok(v)))?, fp32s.len()),
        DataType::Fp64 => (numbers(fp64s.iter().map(|&v| Ok(v)))?, fp64s.len()),
        DataType::Bytes => (Data::Strings(strings.iter().collect::<Strings>()), strings.len()),
        other => {
            let message = format!("{what}: contents has no field for {other}: use raw_input_contents");
            return Err(Error::invalid(message));
        }
    };
    if taken != given {
        return Err(Error::invalid(format!(
            "{what}: contents has elements in a field that is not the one for {datatype}"
        )));
    }
    let wanted = element_count(&shape);
    if wanted != Some(taken) {
        let wanted = wanted
            .map_or("a number of elements that is negative or too large".to_owned(), |wanted| {
                format!("{wanted} elements")
            });
        return Err(Error::invalid(format!("{what}: shape {shape:?} holds {wanted}, contents has {taken}")));
    }
    Ok(Tensor { datatype, shape, data })
}

fn numbers<T: Element>(values: impl Iterator<Item = Result<T>>) -> Result<Data> {
    let mut buffer = Buffer::new();
    for value in values {
        buffer.push(value?);
    }
    Ok(Data::Raw(buffer))
}

/// Builds a response output by output.
#[derive(Debug)]
pub struct AnswerSink<S> {
    signature: S,
    forms: Vec<Form>,
    /// The number of forms that are written.
    done: usize,
    answer: ModelInferResponse,
}

impl<S: AsRef<Signature>> AnswerSink<S> {
    /// Starts the response of the model `name` at `version` to the request with this `id`.
    pub fn new(signature: S, name: &str, version: &str, id: Option<String>, forms: Vec<Form>) -> Self {
        let answer = ModelInferResponse {
            model_name: name.to_owned(),
            model_version: version.to_owned(),
            id: id.unwrap_or_default(),
            ..ModelInferResponse::default()
        };
        Self { signature, forms, done: 0, answer }
    }

    /// Returns the whole response.
    pub fn finish(self) -> ModelInferResponse {
        self.answer
    }

    fn tensor(&mut self, tensor: &TensorView<'_>, keys: Option<&Tensor>, form: &Form) -> Result<()> {
        let highest;
        let (view, keys) = match form.classes {
            0 => (*tensor, keys),
            count => {
                highest = classes(tensor, count)?;
                (highest.view(), None)
            }
        };
        let mut parameters = HashMap::new();
        // Also in shared memory, an output has its place in the list.
        let mut bytes = Vec::new();
        if let Some(window) = &form.window {
            let len = window.put(&view)?;
            let number =
                |number: usize| ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX));
            let region = ParameterChoice::StringParam(window.region.clone());
            for (name, choice) in
                [(REGION, region), (OFFSET, number(window.offset)), (BYTE_SIZE, number(len))]
            {
                parameters.insert(name.to_owned(), InferParameter { parameter_choice: Some(choice) });
            }
        } else {
            raw::write(&view, &mut bytes)?;
        }
        self.answer.raw_output_contents.push(bytes.into());
        if let Some(keys) = keys {
            let mut list = Writer::new().with_bytes_as(BytesForm::TextOrBase64);
            list.flat(&keys.view())?;
            let text = list.into_text();
            let choice = Some(ParameterChoice::StringParam(text));
            parameters.insert("keys".to_owned(), InferParameter { parameter_choice: choice });
        }
        self.answer.outputs.push(InferOutputTensor {
            name: form.wanted.name(&self.signature.as_ref().outputs[form.wanted.index]).into_owned(),
            datatype: view.datatype.name().to_owned(),
            shape: view.shape.to_vec(),
            parameters,
            contents: None,
        });
        Ok(())
    }

    fn value(&mut self, value: ValueView<'_>, form: &Form) -> Result<()> {
        if let ValueView::Tensor(tensor) = value {
            return self.tensor(&tensor, None, form);
        }
        let port = self.signature.as_ref().outputs[form.wanted.index].clone();
        form.wanted.carry(&port, value, |tensor, keys| self.tensor(tensor, keys, form))
    }
}

impl<S: AsRef<Signature>> Sink for AnswerSink<S> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        if self.forms.is_empty() {
            return self.value(value, &Form { wanted: Wanted { index, element: None }, ..Form::default() });
        }
        while self.forms.get(self.done).is_some_and(|form| form.wanted.index == index) {
            let form = std::mem::take(&mut self.forms[self.done]);
            self.done += 1;
            self.value(value, &form)?;
        }
        Ok(())
    }
}
