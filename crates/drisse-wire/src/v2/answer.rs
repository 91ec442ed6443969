//! V2 responses: the JSON, and after it the outputs that are sent as bytes.

use super::classes::classes;
use super::{Form, Wanted};
use crate::error::with_remedy;
use crate::json::{BytesForm, Writer};
use crate::raw;
use drisse_core::{Port, Result, Signature, Sink, Tensor, TensorView, ValueView};

/// The parts of a response that are the same for every request to a model, escaped once.
#[derive(Debug)]
pub struct AnswerParts {
    head: String,
    outputs: Vec<String>,
    ports: Vec<Port>,
}

impl AnswerParts {
    /// Returns the parts for the model `name` at `version`.
    pub fn new(name: &str, version: &str, signature: &Signature) -> Self {
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let head = format!("{{\"model_name\":{},\"model_version\":{}", quote(name), quote(version));
        let ports = signature.outputs.clone();
        let outputs =
            ports.iter().map(|port| format!("{{\"name\":{},\"datatype\":\"", quote(&port.name))).collect();
        Self { head, outputs, ports }
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
    /// The number of forms that are written.
    done: usize,
    any: bool,
    in_binary: bool,
    binary: Vec<u8>,
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
        let in_binary = forms.iter().any(|form| form.binary);
        Self { parts, out, forms, done: 0, any: false, in_binary, binary: Vec::new() }
    }

    /// Returns the whole response.
    pub fn finish(mut self) -> Answer {
        self.out.raw("]}");
        let not_finite = self.out.not_finite();
        let mut body = self.out.into_bytes();
        let json_len = self.in_binary.then_some(body.len());
        body.append(&mut self.binary);
        Answer { body, json_len, not_finite }
    }

    fn tensor(&mut self, tensor: &TensorView<'_>, keys: Option<&Tensor>, form: &Form) -> Result<()> {
        if form.classes > 0 {
            let classes = classes(tensor, form.classes)?;
            return self.print(&classes.view(), None, form);
        }
        self.print(tensor, keys, form)
    }

    fn print(&mut self, tensor: &TensorView<'_>, keys: Option<&Tensor>, form: &Form) -> Result<()> {
        if std::mem::replace(&mut self.any, true) {
            self.out.raw(",");
        }
        let (parts, index) = (self.parts.as_ref(), form.wanted.index);
        match form.wanted.element {
            None => self.out.raw(&parts.outputs[index]),
            Some(_) => {
                self.out.raw("{\"name\":");
                self.out.string(form.wanted.name(&parts.ports[index]));
                self.out.raw(",\"datatype\":\"");
            }
        }
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
                with_remedy(error, &self.parts.as_ref().ports[index].name, remedy)
            })?;
        }
        self.out.raw("}");
        Ok(())
    }

    fn value(&mut self, value: ValueView<'_>, form: Form) -> Result<()> {
        if let ValueView::Tensor(tensor) = value {
            return self.tensor(&tensor, None, &form);
        }
        let port = self.parts.as_ref().ports[form.wanted.index].clone();
        form.wanted.carry(&port, value, |tensor, keys| self.tensor(tensor, keys, &form))
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
        if self.forms.is_empty() {
            return self.value(value, Form { wanted: Wanted { index, element: None }, ..Form::default() });
        }
        while self.forms.get(self.done).is_some_and(|form| form.wanted.index == index) {
            let form = std::mem::take(&mut self.forms[self.done]);
            self.done += 1;
            self.value(value, form)?;
        }
        Ok(())
    }
}
