//! `POST /score`: accepts Azure ML's `{"data": …}` and the well-known bodies of other servers. The response has one form
//! for all of them: an object of outputs by name, as nested lists.

mod ignored;
mod lists;
mod tables;

use crate::error::{V2_HAS_BINARY, with_remedy};
use crate::json::{BytesForm, Reader, Writer};
use crate::shared_memory::NoRegions;
use crate::v1::Layout;
use crate::v2;
use drisse_core::{Error, Inputs, Port, Result, Signature, Sink, ValueView};

pub use ignored::Ignored;
pub(crate) use lists::{columns, is_base64, rows};
pub(crate) use tables::{names_inputs, records, split};

const FORMS: &str = "send {\"data\": …} with the input as nested lists, or with an object of inputs by name";

/// A decoded body.
#[derive(Debug)]
pub struct Body {
    /// The inputs.
    pub inputs: Inputs,
    /// The layout of MLflow's answer: rows to a table, whole outputs to tensors.
    pub layout: Layout,
    /// The columns that are not inputs of the model.
    pub ignored: Ignored,
}

/// Decodes a body. Its only well-known key says which form it has:
///
/// - `data`: the only input as nested lists, an object of inputs by name, or a list of records;
/// - `inputs`: as `data`, or V2's list of tensors;
/// - `input_data`, and `Inputs` or its only member: as `data`, or pandas' `split` form;
/// - `instances`: a list of rows, each a row of the only input or an object of rows by input name;
/// - `dataframe_split`, `dataframe_records`: a pandas table with one column per input, or whose columns together form
///   the rows of the only input.
///
/// # Errors
/// Returns an error that says where the JSON is malformed, or what does not fit the signature and how to fix it.
///
/// ```
/// # use drisse_core::{DataType, Dim, Port, Signature, TensorType, ValueType};
/// use drisse_wire::score::decode;
/// # let kind = TensorType { datatype: DataType::Fp32, shape: Some(vec![Dim::Free(None), Dim::Fixed(2)]) };
/// # let x = Port { name: "x".to_owned(), kind: ValueType::Tensor(kind), optional: false };
/// # let signature = Signature { inputs: vec![x], outputs: vec![] };
/// // The only input, `x`, is FP32 [?, 2].
/// let inputs = decode(br#"{"data": [[1, 2], [3, 4]]}"#, &signature)?;
/// assert_eq!(inputs, decode(br#"{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}"#, &signature)?);
/// # Ok::<(), drisse_core::Error>(())
/// ```
pub fn decode(body: &[u8], signature: &Signature) -> Result<Inputs> {
    decode_body(body, signature).map(|body| body.inputs)
}

/// Decodes a body as [`decode`] does.
///
/// # Errors
/// As for [`decode`].
pub fn decode_body(body: &[u8], signature: &Signature) -> Result<Body> {
    let mut reader = Reader::new(body);
    if reader.peek() != Some(b'{') {
        return Err(reader.unexpected(&format!("an object ({FORMS})")));
    }
    let mut body = Body::new(signature);
    let mut form: Option<String> = None;
    reader.members(|reader, key| {
        let decode: fn(&mut Reader<'_>, &Signature, &mut Body) -> Result<()> = match key {
            "data" => data,
            "inputs" => inputs,
            "input_data" => tables::any,
            "Inputs" => tables::wrapped,
            "instances" => |reader, signature, body| rows(reader, signature, &mut body.inputs),
            "dataframe_split" => split,
            "dataframe_records" => records,
            _ => return reader.skip(),
        };
        if let Some(first) = form.replace(key.to_owned()) {
            let both =
                if first == key { format!("`{key}` twice") } else { format!("both `{first}` and `{key}`") };
            return Err(Error::invalid(format!("the body has {both}: send one of them")));
        }
        decode(reader, signature, &mut body)
    })?;
    reader.end()?;
    // A model without required inputs needs no `data`.
    if form.is_none() && !signature.inputs.iter().all(Port::may_be_absent) {
        return Err(Error::invalid(format!("the body has no `data`: {FORMS}")));
    }
    Ok(body)
}

impl Body {
    pub(crate) fn new(signature: &Signature) -> Self {
        Self { inputs: Inputs::new(signature), layout: Layout::Named, ignored: Ignored::default() }
    }
}

/// Returns a body that [`decode`] reads as `inputs`; `None` if JSON cannot represent them.
pub fn encode(signature: &Signature, inputs: &Inputs) -> Option<String> {
    let mut out = Writer::new().with_bytes_as(BytesForm::TextOrBase64);
    out.raw("{\"data\":");
    let only = signature.only_input().map(|(index, _)| index);
    match (only, inputs.given().collect::<Vec<_>>().as_slice()) {
        (Some(only), [(index, tensor)]) if *index == only => out.nested(&tensor.view()).ok()?,
        (_, given) => {
            out.raw("{");
            for (nth, (index, tensor)) in given.iter().enumerate() {
                out.raw(if nth > 0 { "," } else { "" });
                out.string(&signature.inputs[*index].name);
                out.raw(":");
                out.nested(&tensor.view()).ok()?;
            }
            out.raw("}");
        }
    }
    out.raw("}");
    String::from_utf8(out.into_bytes()).ok()
}

fn data(reader: &mut Reader<'_>, signature: &Signature, body: &mut Body) -> Result<()> {
    if tables::is_records(reader, signature) {
        records(reader, signature, body)
    } else {
        columns(reader, signature, &mut body.inputs)
    }
}

fn inputs(reader: &mut Reader<'_>, signature: &Signature, body: &mut Body) -> Result<()> {
    match tables::is_records(reader, signature) {
        false => tables::by_column(reader, signature, body),
        true if is_v2(reader, signature) => {
            let mut beside = v2::Beside { binary: &[], regions: &NoRegions };
            v2::decode_inputs(reader, signature, &mut body.inputs, &mut beside)
        }
        true => records(reader, signature, body),
    }
}

/// Whether the list of objects that comes next has V2's tensors: records have no `datatype` and no `shape`, unless the
/// model has inputs of these names.
fn is_v2(reader: &Reader<'_>, signature: &Signature) -> bool {
    let mut ahead = reader.clone();
    let mut found = false;
    ahead.take(b'[');
    // The error ends the search, and says nothing.
    let _ = ahead.object(|reader, key| {
        found |= matches!(key, "datatype" | "shape") && signature.input(key).is_none();
        if found { Err(reader.error("found")) } else { reader.skip() }
    });
    found
}

/// Writes the response output by output: `{"output": nested lists, …}`.
#[derive(Debug)]
pub struct AnswerSink<S> {
    signature: S,
    out: Writer,
    any: bool,
}

impl<S: AsRef<Signature>> AnswerSink<S> {
    /// Starts a response.
    pub fn new(signature: S) -> Self {
        let mut out = Writer::new();
        out.raw("{");
        Self { signature, out, any: false }
    }

    /// Returns the whole response, and how many NaN and infinities it has as `null`.
    pub fn finish(mut self) -> (Vec<u8>, u64) {
        self.out.raw("}");
        let not_finite = self.out.not_finite();
        (self.out.into_bytes(), not_finite)
    }
}

impl<S: AsRef<Signature>> Sink for AnswerSink<S> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        if std::mem::replace(&mut self.any, true) {
            self.out.raw(",");
        }
        let name = &self.signature.as_ref().outputs[index].name;
        self.out.string(name);
        self.out.raw(":");
        self.out.value(value).map_err(|error| with_remedy(error, name, V2_HAS_BINARY))
    }
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
