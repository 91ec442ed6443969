//! `:predict`, as KServe's V1 protocol and TensorFlow Serving's REST API have it, and the answers of MLflow's
//! `/invocations`: rows in, rows out.
//!
//! Sources: <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol>,
//! <https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md>

use crate::json::{Reader, Writer};
use crate::score::{columns, rows};
use drisse_core::{Error, ErrorKind, Inputs, Result, Signature, Sink, Value, ValueView};
use std::borrow::Borrow;

/// A row of several outputs is an object of its own: a million of them are tens of megabytes.
const MAX_ROWS: usize = 1 << 20;

/// An answer of more bytes than this has its values once, under TensorFlow Serving's name.
const MAX_TWICE: usize = 64 << 20;

const OUTPUTS: &str = "{\"outputs\":";
const PREDICTIONS: &str = ",\"predictions\":";

/// How a request had its inputs, and so how its answer has the outputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// `instances` in, `predictions` out: a list with one entry per row.
    Rows,
    /// `inputs` in, `outputs` out: whole tensors, by name where there are several.
    Columns,
    /// `inputs` that are a list. For TensorFlow Serving's clients that is a whole tensor, for KServe's it is rows, which
    /// are the same values: the answer has them under the names of both.
    Either,
}

/// Decodes the body of `POST /v1/models/NAME:predict`.
pub fn decode(body: &[u8], signature: &Signature) -> Result<(Inputs, Layout)> {
    let mut reader = Reader::new(body);
    let mut inputs = Inputs::new(signature);
    let mut layout = None;
    reader.object(|reader, key| {
        let given = match key {
            "instances" => Layout::Rows,
            "inputs" => layout_of_inputs(reader),
            "signature_name" => return signature_name(reader),
            _ => return reader.skip(),
        };
        if layout.replace(given).is_some() {
            return Err(Error::invalid("the body has `instances` or `inputs` twice: send one of them"));
        }
        match given {
            Layout::Rows => rows(reader, signature, &mut inputs),
            Layout::Columns | Layout::Either => columns(reader, signature, &mut inputs),
        }
    })?;
    reader.end()?;
    let missing = "the body has no `instances` (a list of rows) and no `inputs` (whole tensors)";
    Ok((inputs, layout.ok_or_else(|| Error::invalid(missing))?))
}

/// A list of objects is KServe's rows: no tensor has objects in it.
fn layout_of_inputs(reader: &mut Reader<'_>) -> Layout {
    let mut ahead = reader.clone();
    match ahead.take(b'[').then(|| ahead.peek()) {
        Some(Some(b'{')) => Layout::Rows,
        Some(_) => Layout::Either,
        None => Layout::Columns,
    }
}

/// An ONNX model has one signature, which TensorFlow's clients know under this name.
fn signature_name(reader: &mut Reader<'_>) -> Result<()> {
    if reader.word_null() {
        return Ok(());
    }
    match &*reader.string()? {
        "" | "serving_default" => Ok(()),
        other => Err(Error::invalid(format!("there is no signature `{other}`: it is `serving_default`"))),
    }
}

/// Writes an answer.
#[derive(Debug)]
pub struct AnswerSink<S> {
    signature: S,
    layout: Layout,
    out: Writer,
    /// Several outputs, until all are there.
    outputs: Vec<(usize, Value)>,
}

impl<S: AsRef<Signature>> AnswerSink<S> {
    /// The start of an answer with all of the signature's outputs.
    pub fn new(signature: S, layout: Layout) -> Self {
        let mut out = Writer::new();
        out.raw(match layout {
            Layout::Rows => "{\"predictions\":",
            Layout::Columns | Layout::Either => OUTPUTS,
        });
        Self { signature, layout, out, outputs: Vec::new() }
    }

    /// The whole answer, and how many NaN and infinities it prints as `null`.
    pub fn finish(self) -> (Vec<u8>, u64) {
        let not_finite = self.out.not_finite();
        let twice = self.layout == Layout::Either && self.is_alone();
        let mut text = self.out.into_bytes();
        if twice && text.len() <= MAX_TWICE {
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
        let rows = same_rows(&outputs).filter(|_| self.layout != Layout::Columns);
        if self.layout == Layout::Either {
            object(&mut self.out, signature, by_place(&outputs))?;
            if self.out.written() > MAX_TWICE {
                return Ok(());
            }
            self.out.raw(PREDICTIONS);
        }
        let Some(rows) = rows else { return object(&mut self.out, signature, by_place(&outputs)) };
        if rows > MAX_ROWS {
            let message = format!("{rows} rows of several outputs are too many for this protocol");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let mut result = Ok(());
        self.out.list(0..rows, |out, row| {
            if result.is_ok() {
                let row = outputs.iter().map(|(place, value)| (*place, value.row(row)));
                result = object(out, signature, row);
            }
        });
        result
    }

    fn is_alone(&self) -> bool {
        self.signature.as_ref().outputs.len() == 1
    }
}

fn by_place(outputs: &[(usize, Value)]) -> impl Iterator<Item = (usize, &Value)> {
    outputs.iter().map(|(place, value)| (*place, value))
}

/// How many rows all outputs have, if that is the same number.
fn same_rows(outputs: &[(usize, Value)]) -> Option<usize> {
    let mut rows = outputs.iter().map(|(_, value)| value.rows());
    let first = rows.next()??;
    rows.all(|rows| rows == Some(first)).then_some(first)
}

/// `{"NAME": value, …}`.
fn object(
    out: &mut Writer,
    signature: &Signature,
    outputs: impl Iterator<Item = (usize, impl Borrow<Value>)>,
) -> Result<()> {
    out.raw("{");
    for (nth, (place, value)) in outputs.enumerate() {
        let name = &signature.outputs[place].name;
        out.raw(if nth > 0 { "," } else { "" });
        out.string(name);
        out.raw(":");
        value_of(out, name, ValueView::Other(value.borrow()))?;
    }
    out.raw("}");
    Ok(())
}

/// TensorFlow's outputs of bytes that are no text have names that say so.
fn value_of(out: &mut Writer, name: &str, value: ValueView<'_>) -> Result<()> {
    if name.ends_with("_bytes") { out.value_in_base64(value) } else { out.value(value) }
}

impl<S: AsRef<Signature>> Sink for AnswerSink<S> {
    fn output(&mut self, place: usize, value: ValueView<'_>) -> Result<()> {
        if self.is_alone() {
            return value_of(&mut self.out, &self.signature.as_ref().outputs[place].name, value);
        }
        self.outputs.push((place, Value::copy_of(value)));
        let all = self.outputs.len() == self.signature.as_ref().outputs.len();
        if all { self.print() } else { Ok(()) }
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

    fn answer(outputs: &[(&str, i64)], layout: Layout) -> String {
        let names: Vec<_> = outputs.iter().map(|(name, _)| *name).collect();
        let mut sink = AnswerSink::new(signature(&names), layout);
        for (place, (_, rows)) in outputs.iter().enumerate() {
            sink.output(place, ValueView::Other(&tensor(*rows))).unwrap();
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
        assert_eq!(answer(&[("y", 1)], Layout::Either), r#"{"outputs":[[0,1]],"predictions":[[0,1]]}"#);
        let both = r#"{"outputs":{"y":[[0,1]],"z":[[0,1]]},"predictions":[{"y":[0,1],"z":[0,1]}]}"#;
        assert_eq!(answer(&[("y", 1), ("z", 1)], Layout::Either), both);
        // Outputs that do not belong to rows stand as they are.
        let uneven = r#"{"predictions":{"y":[[0,1]],"z":[[0,1],[2,3]]}}"#;
        assert_eq!(answer(&[("y", 1), ("z", 2)], Layout::Rows), uneven);
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
            (r#"{"signature_name":"other","instances":[[1,2]]}"#, "there is no signature `other`"),
        ] {
            assert!(decoded(body).unwrap_err().message().contains(why), "{body}");
        }
    }
}
