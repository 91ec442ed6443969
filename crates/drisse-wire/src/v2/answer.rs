//! V2 responses: the JSON, and after it the outputs that are sent as bytes.

use super::Form;
use super::classes::classes;
use crate::error::with_remedy;
use crate::json::{BytesForm, Writer};
use crate::raw;
use drisse_core::{
    Buffer, Data, DataType, Error, Result, Shape, Signature, Sink, Tensor, TensorView, Value, ValueView,
};

/// The parts of a response that are the same for every request to a model, escaped once.
#[derive(Debug)]
pub struct AnswerParts {
    head: String,
    outputs: Vec<String>,
    /// Each output's name.
    names: Vec<String>,
}

impl AnswerParts {
    /// Returns the parts for the model `name` at `version`.
    pub fn new(name: &str, version: &str, signature: &Signature) -> Self {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let head = format!("{{\"model_name\":{},\"model_version\":{}", quote(name), quote(version));
        let names: Vec<_> = signature.outputs.iter().map(|port| port.name.clone()).collect();
        let outputs =
            names.iter().map(|name| format!("{{\"name\":{},\"datatype\":\"", quote(name))).collect();
        Self { head, outputs, names }
    }
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    /// The JSON, followed by the outputs that are sent as bytes.
    pub body: Vec<u8>,
    /// The length of the JSON (`Inference-Header-Content-Length`); `None` if no output is sent as bytes.
    pub json_len: Option<usize>,
    /// The number of NaN and infinities that the JSON has as `null`.
    pub not_finite: u64,
}

/// Writes a response output by output.
#[derive(Debug)]
pub struct AnswerSink<P> {
    parts: P,
    out: Writer,
    forms: Vec<Form>,
    binary: Vec<u8>,
    written: usize,
}

impl<P: AsRef<AnswerParts>> AnswerSink<P> {
    /// Starts the response to the request with this `id`, which requested its outputs in these forms.
    pub fn new(parts: P, id: Option<&str>, forms: Vec<Form>) -> Self {
        let mut out = Writer::new();
        out.raw(&parts.as_ref().head);
        if let Some(id) = id {
            out.raw(",\"id\":");
            out.string(id);
        }
        out.raw(",\"outputs\":[");
        Self { parts, out, forms, binary: Vec::new(), written: 0 }
    }

    /// Returns the whole response.
    pub fn finish(mut self) -> Answer {
        self.out.raw("]}");
        let not_finite = self.out.not_finite();
        let mut body = self.out.into_bytes();
        let binary = self.forms.iter().any(|form| form.binary);
        let json_len = binary.then_some(body.len());
        body.append(&mut self.binary);
        Answer { body, json_len, not_finite }
    }

    fn tensor(&mut self, index: usize, tensor: &TensorView<'_>, keys: Option<&Tensor>) -> Result<()> {
        let form = self.forms.get(self.written).cloned().unwrap_or_default();
        if form.classes > 0 {
            let classes = classes(tensor, form.classes)?;
            return self.print(index, &classes.view(), None, &form);
        }
        self.print(index, tensor, keys, &form)
    }

    fn print(
        &mut self,
        index: usize,
        tensor: &TensorView<'_>,
        keys: Option<&Tensor>,
        form: &Form,
    ) -> Result<()> {
        if self.written > 0 {
            self.out.raw(",");
        }
        self.written += 1;
        self.out.raw(&self.parts.as_ref().outputs[index]);
        self.out.raw(tensor.datatype.name());
        self.out.raw("\",\"shape\":");
        self.out.shape(tensor.shape);
        if form.binary || keys.is_some() || form.window.is_some() {
            self.parameters(tensor, keys, form)?;
        }
        if form.binary {
            raw::write(tensor, &mut self.binary)?;
        } else if form.window.is_none() {
            self.out.raw(",\"data\":");
            self.out.flat(tensor).map_err(|error| {
                let remedy =
                    "request it with the parameter `binary_data`, or name other outputs in `outputs`";
                with_remedy(error, &self.parts.as_ref().names[index], remedy)
            })?;
        }
        self.out.raw("}");
        Ok(())
    }

    /// Writes an output's parameters, and its data if that goes to shared memory.
    fn parameters(&mut self, tensor: &TensorView<'_>, keys: Option<&Tensor>, form: &Form) -> Result<()> {
        self.out.raw(",\"parameters\":{");
        if let Some(keys) = keys {
            // A parameter is a string, a number or a boolean, so the list is sent as JSON in a string.
            let mut list = Writer::new().with_bytes_as(BytesForm::TextOrBase64);
            list.flat(&keys.view())?;
            self.out.raw("\"keys\":");
            self.out.document(&list);
        }
        let separator = if keys.is_some() { "," } else { "" };
        if form.binary {
            self.out.raw(separator);
            self.out.raw("\"binary_data_size\":");
            self.out.integer(raw::byte_len(tensor));
        }
        if let Some(window) = &form.window {
            let len = window.put(tensor)?;
            self.out.raw(separator);
            self.out.raw("\"shared_memory_region\":");
            self.out.string(&window.region);
            self.out.raw(",\"shared_memory_offset\":");
            self.out.integer(window.offset);
            self.out.raw(",\"shared_memory_byte_size\":");
            self.out.integer(len);
        }
        self.out.raw("}");
        Ok(())
    }
}

impl<P: AsRef<AnswerParts>> Sink for AnswerSink<P> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        if let ValueView::Tensor(tensor) = value {
            return self.tensor(index, &tensor, None);
        }
        let name = self.parts.as_ref().names[index].clone();
        carried(&name, value, |tensor, keys| self.tensor(index, tensor, keys))
    }
}

/// Calls `tensor` with the tensor that represents a value in V2: the value itself, or for maps with equal keys the
/// table of their values, and those keys. `name` is the output's name, for errors.
pub(crate) fn carried(
    name: &str,
    value: ValueView<'_>,
    mut tensor: impl FnMut(&TensorView<'_>, Option<&Tensor>) -> Result<()>,
) -> Result<()> {
    match value {
        ValueView::Tensor(view) => tensor(&view, None),
        ValueView::Other(Value::Tensor(owned)) => tensor(&owned.view(), None),
        ValueView::Other(Value::Sequence(none)) if none.is_empty() => Err(Error::invalid(format!(
            "output \"{name}\" is an empty list of maps, which this protocol cannot represent: send at least one row, or \
             name other outputs in `outputs`"
        ))),
        ValueView::Other(other) => match table(other) {
            Some((keys, rows)) => tensor(&rows.view(), Some(&keys)),
            None => Err(Error::invalid(format!(
                "output \"{name}\" is not a tensor, and this protocol carries only tensors: name the outputs you want in \
                 `outputs`, or send the request to /score"
            ))),
        },
    }
}

/// Converts maps with equal keys (a classifier's zipmap) to those keys and a table with one row of values per map.
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
