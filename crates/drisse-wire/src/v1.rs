//! `:predict` of KServe's V1 protocol and of TensorFlow Serving's REST API, and the responses of MLflow's
//! `/invocations`: rows in, rows out.
//!
//! Sources: <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol>,
//! <https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md>

use crate::error::{V2_HAS_BINARY, with_remedy};
use crate::json::{BytesForm, Reader, Writer};
use crate::score::{columns, is_base64, rows};
use drisse_core::{Error, ErrorKind, Inputs, Result, RowOutputs, Signature, Sink, Value, ValueView};
use std::borrow::Borrow;

/// The most rows of a response with several outputs: each row is an object of its own, and a million of them are tens
/// of megabytes.
const MAX_ROWS: usize = 1 << 20;

/// The longest response that has its values under both names, in bytes; a longer one has them only under TensorFlow
/// Serving's.
const MAX_TWICE: usize = 64 << 20;

const OUTPUTS: &str = "{\"outputs\":";
const PREDICTIONS: &str = ",\"predictions\":";

/// The layout of a request's inputs, which its response uses for the outputs too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// `instances` in, `predictions` out: a list with one entry per row.
    Rows,
    /// `inputs` in, `outputs` out: whole tensors, by name if there are several.
    Columns,
    /// `inputs` with a list: a whole tensor for TensorFlow Serving's clients, rows with the same values for KServe's.
    /// The response has the values under both names, `outputs` and `predictions`.
    Either,
    /// MLflow's tensors in: `predictions` out, with several outputs whole and by name.
    Named,
}

/// Decodes the body of `POST /v1/models/NAME:predict`.
///
/// # Errors
/// Returns an error that says where the JSON is malformed, or what does not fit the signature.
///
/// ```
/// # use drisse_core::{DataType, Dim, Port, Signature, TensorType, ValueType};
/// use drisse_wire::v1::{Layout, decode};
/// # let kind = TensorType { datatype: DataType::Fp32, shape: Some(vec![Dim::Free(None), Dim::Fixed(2)]) };
/// # let x = Port { name: "x".to_owned(), kind: ValueType::Tensor(kind), optional: false };
/// # let signature = Signature { inputs: vec![x], outputs: vec![] };
/// // The only input is FP32 [?, 2].
/// let (inputs, layout) = decode(br#"{"instances": [[1, 2], [3, 4]]}"#, &signature)?;
/// assert_eq!(layout, Layout::Rows);
/// assert_eq!(inputs.get(0).map(|x| x.shape.to_vec()), Some(vec![2, 2]));
/// # Ok::<(), drisse_core::Error>(())
/// ```
pub fn decode(body: &[u8], signature: &Signature) -> Result<(Inputs, Layout)> {
    let mut reader = Reader::new(body);
    let mut inputs = Inputs::new(signature);
    let mut layout = None;
    reader.members(|reader, key| {
        let given = match key {
            "instances" => Layout::Rows,
            "inputs" => layout_of_inputs(reader, signature),
            "signature_name" => return signature_name(reader),
            _ => return reader.skip(),
        };
        if layout.replace(given).is_some() {
            return Err(Error::invalid("the body has `instances` or `inputs` twice: send one of them"));
        }
        match given {
            Layout::Rows => rows(reader, signature, &mut inputs),
            Layout::Columns | Layout::Either | Layout::Named => columns(reader, signature, &mut inputs),
        }
    })?;
    reader.end()?;
    let missing = "the body has no `instances` (a list of rows) and no `inputs` (whole tensors)";
    Ok((inputs, layout.ok_or_else(|| Error::invalid(missing))?))
}

/// Returns the layout of `inputs`. A list of objects is KServe's rows, because tensors have no objects but those of bytes.
fn layout_of_inputs(reader: &mut Reader<'_>, signature: &Signature) -> Layout {
    let mut ahead = reader.clone();
    match ahead.take(b'[').then(|| ahead.peek()) {
        Some(Some(b'{')) if !is_base64(&ahead, signature) => Layout::Rows,
        Some(_) => Layout::Either,
        None => Layout::Columns,
    }
}

/// Reads `signature_name`. An ONNX model has one signature, which TensorFlow's clients call `serving_default`.
fn signature_name(reader: &mut Reader<'_>) -> Result<()> {
    match &*reader.string()? {
        "" | "serving_default" => Ok(()),
        other => {
            let message = format!("unknown signature `{other}`: the only signature is `serving_default`");
            Err(Error::invalid(message))
        }
    }
}

/// Writes a response output by output. Outputs come back as rows only if each has one entry per row of the request; else
/// all of them are whole, by name.
#[derive(Debug)]
pub struct AnswerSink<S, R> {
    signature: S,
    layout: Layout,
    row_outputs: R,
    /// The number of rows in the request; `None` if it has none.
    rows: Option<usize>,
    /// Whether `predictions` repeats the text of `outputs`.
    twice: bool,
    out: Writer,
    /// How many outputs the response has.
    count: usize,
    /// The outputs of a response with several, until all of them are known.
    outputs: Vec<(usize, Value)>,
}

impl<S: AsRef<Signature>, R: AsRef<RowOutputs>> AnswerSink<S, R> {
    /// Starts a response to a request of `rows` rows, with `count` outputs of the signature.
    pub fn new(signature: S, layout: Layout, row_outputs: R, rows: Option<usize>, count: usize) -> Self {
        let mut out = Writer::new();
        out.raw(match layout {
            Layout::Rows | Layout::Named => "{\"predictions\":",
            Layout::Columns | Layout::Either => OUTPUTS,
        });
        Self { signature, layout, row_outputs, rows, twice: false, out, count, outputs: Vec::new() }
    }

    /// Returns the whole response, and how many NaN and infinities it has as `null`.
    pub fn finish(self) -> (Vec<u8>, u64) {
        let not_finite = self.out.not_finite();
        let mut text = self.out.into_bytes();
        if self.twice && text.len() <= MAX_TWICE {
            let values = OUTPUTS.len()..text.len();
            text.extend_from_slice(PREDICTIONS.as_bytes());
            text.extend_from_within(values);
        }
        text.push(b'}');
        (text, not_finite)
    }

    /// Prints several outputs, on the thread that ran the model.
    fn print(&mut self) -> Result<()> {
        let signature = self.signature.as_ref();
        let outputs = std::mem::take(&mut self.outputs);
        let has_rows = |(index, value): &(usize, Value)| self.has_rows(*index, &value.view());
        let whole = matches!(self.layout, Layout::Columns | Layout::Named);
        let rows = self.rows.filter(|_| !whole && outputs.iter().all(has_rows));
        if self.layout == Layout::Either {
            object(&mut self.out, signature, by_index(&outputs))?;
            if self.out.written() > MAX_TWICE {
                return Ok(());
            }
            self.out.raw(PREDICTIONS);
        }
        let Some(rows) = rows else { return object(&mut self.out, signature, by_index(&outputs)) };
        if rows > MAX_ROWS {
            let message = format!("{rows} rows of several outputs are too many for this protocol");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let mut result = Ok(());
        self.out.list(0..rows, |out, row| {
            if result.is_ok() {
                let row = outputs.iter().map(|(index, value)| (*index, value.row(row)));
                result = object(out, signature, row);
            }
        });
        result
    }

    /// Prints the only output while it is in the engine's memory.
    fn print_alone(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        let name = &self.signature.as_ref().outputs[index].name;
        let as_rows = self.layout != Layout::Columns && self.has_rows(index, &value);
        if as_rows || matches!(self.layout, Layout::Columns | Layout::Either) {
            value_of(&mut self.out, name, value)?;
        }
        self.twice = as_rows && self.layout == Layout::Either;
        if as_rows || self.layout == Layout::Columns || self.out.written() > MAX_TWICE {
            return Ok(());
        }
        self.out.raw(if self.layout == Layout::Either { PREDICTIONS } else { "" });
        self.out.raw("{");
        self.out.string(name);
        self.out.raw(":");
        value_of(&mut self.out, name, value)?;
        self.out.raw("}");
        Ok(())
    }

    /// Whether an output has one entry per row of the request.
    fn has_rows(&self, index: usize, value: &ValueView<'_>) -> bool {
        self.rows.is_some_and(|rows| self.row_outputs.as_ref().has_rows(index, value, rows))
    }
}

fn by_index(outputs: &[(usize, Value)]) -> impl Iterator<Item = (usize, &Value)> {
    outputs.iter().map(|(index, value)| (*index, value))
}

/// Writes `{"NAME": value, …}`.
fn object(
    out: &mut Writer,
    signature: &Signature,
    outputs: impl Iterator<Item = (usize, impl Borrow<Value>)>,
) -> Result<()> {
    out.raw("{");
    for (nth, (index, value)) in outputs.enumerate() {
        let name = &signature.outputs[index].name;
        out.raw(if nth > 0 { "," } else { "" });
        out.string(name);
        out.raw(":");
        value_of(out, name, ValueView::Other(value.borrow()))?;
    }
    out.raw("}");
    Ok(())
}

/// Writes a value. TensorFlow Serving has base64 for bytes that are not text, and for all outputs whose name ends with
/// `_bytes` (api_rest.md, "Output of binary values").
fn value_of(out: &mut Writer, name: &str, value: ValueView<'_>) -> Result<()> {
    let form = if name.ends_with("_bytes") { BytesForm::Base64 } else { BytesForm::TextOrBase64 };
    out.value_as(value, form).map_err(|error| with_remedy(error, name, V2_HAS_BINARY))
}

impl<S: AsRef<Signature>, R: AsRef<RowOutputs>> Sink for AnswerSink<S, R> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        if self.count == 1 {
            return self.print_alone(index, value);
        }
        self.outputs.push((index, Value::copy_of(value)));
        if self.outputs.len() == self.count { self.print() } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_core::{Buffer, Data, DataType, Dim, Port, Shape, Tensor, TensorType, ValueType};

    fn port(name: &str, datatype: DataType, dims: &[Dim]) -> Port {
        let kind = ValueType::Tensor(TensorType { datatype, shape: Some(dims.to_vec()) });
        Port { name: name.to_owned(), kind, optional: false }
    }

    fn signature(outputs: &[&str]) -> Box<Signature> {
        let rows = [Dim::Free(None), Dim::Fixed(2)];
        let outputs = outputs.iter().map(|name| port(name, DataType::Int64, &rows)).collect();
        Box::new(Signature { inputs: vec![port("x", DataType::Fp32, &rows)], outputs })
    }

    fn tensor(rows: i64) -> Value {
        let mut buffer = Buffer::new();
        (0..rows * 2).for_each(|value: i64| buffer.push(value));
        let shape = Shape::from_slice(&[rows, 2]);
        Value::Tensor(Tensor { datatype: DataType::Int64, shape, data: Data::Raw(buffer) })
    }

    /// The answer to two rows.
    fn answer(outputs: &[(&str, i64)], layout: Layout) -> String {
        let names: Vec<_> = outputs.iter().map(|(name, _)| *name).collect();
        let signature = signature(&names);
        let row_outputs = Box::new(RowOutputs::of(&signature));
        let mut sink = AnswerSink::new(signature, layout, row_outputs, Some(2), names.len());
        for (index, (_, rows)) in outputs.iter().enumerate() {
            sink.output(index, ValueView::Other(&tensor(*rows))).unwrap();
        }
        String::from_utf8(sink.finish().0).unwrap()
    }

    #[test]
    fn rows_come_back_as_rows_and_columns_as_columns() {
        assert_eq!(answer(&[("y", 2)], Layout::Rows), r#"{"predictions":[[0,1],[2,3]]}"#);
        assert_eq!(answer(&[("y", 2)], Layout::Columns), r#"{"outputs":[[0,1],[2,3]]}"#);
        let two = [("y", 2), ("z", 2)];
        let rows = r#"{"predictions":[{"y":[0,1],"z":[0,1]},{"y":[2,3],"z":[2,3]}]}"#;
        assert_eq!(answer(&two, Layout::Rows), rows);
        let columns = r#"{"outputs":{"y":[[0,1],[2,3]],"z":[[0,1],[2,3]]}}"#;
        assert_eq!(answer(&two, Layout::Columns), columns);
        assert_eq!(answer(&two, Layout::Named), columns.replace("outputs", "predictions"));
        assert_eq!(answer(&[("y", 2)], Layout::Named), r#"{"predictions":[[0,1],[2,3]]}"#);
        let both = r#"{"outputs":[[0,1],[2,3]],"predictions":[[0,1],[2,3]]}"#;
        assert_eq!(answer(&[("y", 2)], Layout::Either), both);
        let both = r#"{"outputs":{"y":[[0,1],[2,3]],"z":[[0,1],[2,3]]},"predictions":[{"y":[0,1],"z":[0,1]},{"y":[2,3],"z":[2,3]}]}"#;
        assert_eq!(answer(&two, Layout::Either), both);
    }

    #[test]
    fn outputs_without_a_row_per_row_of_the_request_are_whole() {
        let uneven = r#"{"predictions":{"y":[[0,1]],"z":[[0,1],[2,3]]}}"#;
        assert_eq!(answer(&[("y", 1), ("z", 2)], Layout::Rows), uneven);
        let fewer = r#"{"predictions":{"y":[[0,1]],"z":[[0,1]]}}"#;
        assert_eq!(answer(&[("y", 1), ("z", 1)], Layout::Rows), fewer);
        assert_eq!(answer(&[("y", 1)], Layout::Rows), r#"{"predictions":{"y":[[0,1]]}}"#);
        let both = r#"{"outputs":[[0,1]],"predictions":{"y":[[0,1]]}}"#;
        assert_eq!(answer(&[("y", 1)], Layout::Either), both);
        assert_eq!(answer(&[("y", 1)], Layout::Columns), r#"{"outputs":[[0,1]]}"#);
    }

    #[test]
    fn instances_are_rows_and_inputs_are_columns() {
        let signature = signature(&["y"]);
        let decoded = |body: &str| decode(body.as_bytes(), &signature);
        let (rows, layout) =
            decoded(r#"{"signature_name":"serving_default","instances":[[1,2],[3,4]]}"#).unwrap();
        assert_eq!(layout, Layout::Rows);
        for (same, layout) in [
            (r#"{"inputs":{"x":[[1,2],[3,4]]}}"#, Layout::Columns),
            (r#"{"inputs":[[1,2],[3,4]]}"#, Layout::Either),
            (r#"{"inputs":[{"x":[1,2]},{"x":[3,4]}]}"#, Layout::Rows),
        ] {
            assert_eq!(decoded(same).unwrap(), (rows.clone(), layout));
        }
        assert_eq!(decoded(r#"{"instances":[{"x":[1,2]},{"x":[3,4]}]}"#).unwrap().0, rows);
        for (body, why) in [
            ("{}", "the body has no `instances`"),
            (r#"{"instances":[[1,2]],"inputs":[[1,2]]}"#, "twice"),
            (r#"{"signature_name":"other","instances":[[1,2]]}"#, "unknown signature `other`"),
        ] {
            assert!(decoded(body).unwrap_err().message().contains(why), "{body}");
        }
    }
}
