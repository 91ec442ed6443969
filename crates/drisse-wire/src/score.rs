//! `POST /score`: accepts Azure ML's `{"data": …}` and the well-known bodies of other servers. The response has one form
//! for all of them: an object of outputs by name, as nested lists.

use crate::error::{V2_HAS_BINARY, with_remedy};
use crate::json::{BytesForm, Reader, TensorReader, Writer};
use crate::shared_memory::NoRegions;
use crate::v2;
use drisse_core::{
    DataType, Dim, Error, Inputs, Result, Shape, Signature, Sink, Tensor, ValueType, ValueView,
};

const FORMS: &str = "send {\"data\": …} with the input as nested lists, or with an object of inputs by name";

/// Decodes a body. Its only well-known key says which form it has:
///
/// - `data`: the only input as nested lists, or an object of inputs by name;
/// - `inputs`: as `data`, or V2's list of tensors;
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
    decode_form(body, signature).map(|(inputs, _)| inputs)
}

/// Decodes a body, and returns the key that says which form it has, if it has one.
pub(crate) fn decode_form(body: &[u8], signature: &Signature) -> Result<(Inputs, Option<String>)> {
    let mut reader = Reader::new(body);
    if reader.peek() != Some(b'{') {
        return Err(reader.unexpected(&format!("an object ({FORMS})")));
    }
    let mut inputs = Inputs::new(signature);
    let mut form: Option<String> = None;
    reader.members(|reader, key| {
        let decode: fn(&mut Reader<'_>, &Signature, &mut Inputs) -> Result<()> = match key {
            "data" => columns,
            "inputs" => columns_or_v2,
            "instances" => rows,
            "dataframe_split" => split,
            "dataframe_records" => records,
            _ => return reader.skip(),
        };
        if let Some(first) = form.replace(key.to_owned()) {
            let both =
                if first == key { format!("`{key}` twice") } else { format!("both `{first}` and `{key}`") };
            return Err(Error::invalid(format!("the body has {both}: send one of them")));
        }
        decode(reader, signature, &mut inputs)
    })?;
    reader.end()?;
    match form {
        Some(_) => Ok((inputs, form)),
        // A model without required inputs needs no `data`.
        None if signature.inputs.iter().all(|port| port.optional) => Ok((inputs, form)),
        None => Err(Error::invalid(format!("the body has no `data`: {FORMS}"))),
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

fn columns_or_v2(reader: &mut Reader<'_>, signature: &Signature, inputs: &mut Inputs) -> Result<()> {
    // V2's tensors are objects in a list; the list of a column has numbers or strings.
    let mut ahead = reader.clone();
    if ahead.take(b'[') && ahead.peek() == Some(b'{') && !is_base64(&ahead, signature) {
        let mut beside = v2::Beside { binary: &[], regions: &NoRegions };
        return v2::decode_inputs(reader, signature, inputs, &mut beside);
    }
    columns(reader, signature, inputs)
}

/// Whether the object that comes next is a string of the only input, `{"b64": …}`, and not an object of inputs by name.
pub(crate) fn is_base64(reader: &Reader<'_>, signature: &Signature) -> bool {
    let mut ahead = reader.clone();
    let only = signature.only_input().and_then(|(_, port)| port.tensor());
    only.is_some_and(|only| only.datatype == DataType::Bytes)
        && ahead.take(b'{')
        && ahead.string().is_ok_and(|key| key == "b64" && signature.input(&key).is_none())
}

/// Reads the only input as nested lists, or an object of inputs by name.
pub(crate) fn columns(reader: &mut Reader<'_>, signature: &Signature, inputs: &mut Inputs) -> Result<()> {
    if reader.peek() == Some(b'{') && !is_base64(reader, signature) {
        return reader.object(|reader, name| {
            let index = input_index(signature, name)?;
            let port = &signature.inputs[index];
            // `null` omits an optional input; of other inputs it is a NaN.
            if (port.optional || matches!(port.kind, ValueType::Optional(_))) && reader.word_null() {
                return Ok(());
            }
            let mut tensor = tensor_reader(signature, index)?;
            tensor.read(reader).map_err(|error| named(error, name))?;
            set(signature, inputs, index, tensor.finish())
        });
    }
    let index = only(signature)?;
    let mut tensor = tensor_reader(signature, index)?;
    tensor.read(reader).map_err(|error| named(error, &signature.inputs[index].name))?;
    set(signature, inputs, index, tensor.finish())
}

/// Sets a tensor read from nested lists, and completes its shape where lists cannot express it.
fn set(signature: &Signature, inputs: &mut Inputs, index: usize, mut tensor: Tensor) -> Result<()> {
    let wanted = signature.inputs[index].tensor().and_then(|wanted| wanted.shape.as_deref());
    match (wanted, tensor.shape.as_slice()) {
        // `[]` is a batch without rows, whatever the shape of a row.
        (Some([Dim::Free(_), rest @ ..]), [0]) if !rest.is_empty() => {
            let row = rest.iter().map(|dim| if let Dim::Fixed(length) = dim { *length } else { 0 });
            tensor.shape.extend(row);
        }
        // A column of n scalars, as in a table.
        (Some([_, Dim::Fixed(1)]), [_]) => tensor.shape.push(1),
        _ => {}
    }
    inputs.set(signature, index, tensor)
}

/// Reads a list of rows, each a row of the only input or an object of rows by input name.
pub(crate) fn rows(reader: &mut Reader<'_>, signature: &Signature, inputs: &mut Inputs) -> Result<()> {
    let mut readers: Vec<Option<TensorReader>> = signature.inputs.iter().map(|_| None).collect();
    let mut first = true;
    reader.array(|reader| {
        let mut given = 0;
        let mut row = |reader: &mut Reader<'_>, index: usize| {
            if readers[index].is_none() {
                if !first {
                    let name = &signature.inputs[index].name;
                    return Err(Error::invalid(format!("input \"{name}\" is missing in the first row")));
                }
                readers[index] = Some(tensor_reader(signature, index)?);
            }
            given += 1;
            let name = &signature.inputs[index].name;
            let tensor = readers[index].as_mut().expect("created above");
            tensor.read_row(reader).map_err(|error| named(error, name))
        };
        if reader.peek() == Some(b'{') && !is_base64(reader, signature) {
            reader.object(|reader, name| row(reader, input_index(signature, name)?))?;
        } else {
            row(reader, only(signature)?)?;
        }
        first = false;
        if given == readers.iter().flatten().count() {
            Ok(())
        } else {
            Err(reader.error("rows have different inputs"))
        }
    })?;
    set_all(signature, inputs, readers)
}

fn set_all(signature: &Signature, inputs: &mut Inputs, readers: Vec<Option<TensorReader>>) -> Result<()> {
    let mut length = None;
    for (index, reader) in readers.into_iter().enumerate() {
        let Some(reader) = reader else { continue };
        let mut tensor = reader.finish();
        if tensor.shape.is_empty() {
            // A column without rows: its reader has read nothing, which looks like a scalar.
            tensor.shape.push(0);
        }
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if *length.get_or_insert(rows) != rows {
            return Err(Error::invalid("the rows do not all have the same inputs"));
        }
        as_column(signature, index, &mut tensor);
        set(signature, inputs, index, tensor)?;
    }
    if length.is_none() {
        // No rows: an empty batch of every required input.
        for index in (0..signature.inputs.len()).filter(|&index| !signature.inputs[index].optional) {
            let mut none = tensor_reader(signature, index)?.finish();
            none.shape.push(0);
            set(signature, inputs, index, none)?;
        }
    }
    Ok(())
}

/// Reshapes a column of n scalars to `[n, 1]` if the model's input has two dimensions.
fn as_column(signature: &Signature, index: usize, tensor: &mut Tensor) {
    let wanted = signature.inputs[index].tensor().and_then(|wanted| wanted.shape.as_ref()).map(Vec::len);
    if tensor.shape.len() == 1 && wanted == Some(2) {
        tensor.shape.push(1);
    }
}

/// Reads `{"columns": [names], "data": [[row], …]}`, as `DataFrame.to_json(orient="split")` prints it.
pub(crate) fn split(reader: &mut Reader<'_>, signature: &Signature, inputs: &mut Inputs) -> Result<()> {
    let mut columns: Option<Vec<String>> = None;
    let mut data = None;
    reader.members(|reader, key| match key {
        "columns" => {
            let mut names = Vec::new();
            reader.array(|reader| {
                // pandas numbers columns without a name.
                names.push(reader.string_or_number()?.into_owned());
                Ok(())
            })?;
            columns = Some(names);
            Ok(())
        }
        "data" => {
            data = Some(reader.position());
            reader.skip()
        }
        _ => reader.skip(),
    })?;
    let data = data.ok_or_else(|| Error::invalid("`dataframe_split` has no `data`"))?;
    let mut reader = reader.again(data);
    let Some(columns) = columns else { return self::columns(&mut reader, signature, inputs) };
    if let Some(unknown) = columns.iter().find(|name| signature.input(name).is_none()) {
        only(signature).map_err(|_| unknown_column(signature, unknown))?;
        return self::columns(&mut reader, signature, inputs);
    }
    let mut readers: Vec<Option<TensorReader>> = signature.inputs.iter().map(|_| None).collect();
    for name in &columns {
        let index = input_index(signature, name)?;
        if readers[index].replace(tensor_reader(signature, index)?).is_some() {
            return Err(Error::invalid(format!("column \"{name}\" is given twice")));
        }
    }
    reader.array(|reader| {
        let mut names = columns.iter();
        reader.array(|reader| {
            let Some(name) = names.next() else { return Err(reader.error("a row is longer than `columns`")) };
            let tensor = readers[input_index(signature, name)?].as_mut().expect("created above");
            tensor.read_row(reader).map_err(|error| named(error, name))
        })?;
        if names.next().is_some() { Err(reader.error("a row is shorter than `columns`")) } else { Ok(()) }
    })?;
    set_all(signature, inputs, readers)
}

/// Reads `[{"column": value, …}, …]`, as `DataFrame.to_json(orient="records")` prints it.
pub(crate) fn records(reader: &mut Reader<'_>, signature: &Signature, inputs: &mut Inputs) -> Result<()> {
    let mut ahead = reader.clone();
    let mut unknown = None;
    if ahead.take(b'[') && ahead.peek() == Some(b'{') {
        ahead.object(|reader, name| {
            if signature.input(name).is_none() {
                unknown.get_or_insert_with(|| name.to_owned());
            }
            reader.skip()
        })?;
    }
    let Some(unknown) = unknown else { return rows(reader, signature, inputs) };
    let index = only(signature).map_err(|_| unknown_column(signature, &unknown))?;
    let name = &signature.inputs[index].name;
    let datatype = datatype(signature, index)?;
    let mut columns: Vec<String> = Vec::new();
    let mut tensor = TensorReader::new(datatype)?;
    let mut count: i64 = 0;
    reader.array(|reader| {
        // A record's keys may be in another order than those of the first record, whose order counts.
        let mut cells: Vec<(String, usize)> = Vec::new();
        reader.object(|reader, column| {
            cells.push((column.to_owned(), reader.position()));
            reader.skip()
        })?;
        if count == 0 {
            columns = cells.iter().map(|(column, _)| column.clone()).collect();
        }
        count += 1;
        if cells.len() != columns.len() {
            return Err(reader.error("the records do not all have the same columns"));
        }
        for (nth, column) in columns.iter().enumerate() {
            let same = cells.get(nth).filter(|(name, _)| name == column);
            let cell = same.or_else(|| cells.iter().find(|(name, _)| name == column));
            let Some((_, at)) = cell else {
                return Err(reader.error(format_args!("a record has no \"{column}\"")));
            };
            tensor.read_row(&mut reader.again(*at)).map_err(|error| named(error, column))?;
        }
        Ok(())
    })?;
    let shape = Shape::from_slice(&[count, columns.len() as i64]);
    inputs.set(signature, index, tensor.finish_as(shape, format_args!("input \"{name}\""))?)
}

fn input_index(signature: &Signature, name: &str) -> Result<usize> {
    v2::known_input(signature, name).map(|(index, _)| index)
}

fn unknown_column(signature: &Signature, column: &str) -> Error {
    let known = signature.input_names();
    Error::invalid(format!("column \"{column}\" is not an input of the model; its inputs are {known}"))
}

fn only(signature: &Signature) -> Result<usize> {
    signature.only_input().map(|(index, _)| index).ok_or_else(|| {
        if signature.inputs.is_empty() {
            return Error::invalid("the model takes no inputs: send {\"data\": {}}");
        }
        let known = signature.input_names();
        Error::invalid(format!("the model has several inputs: send an object with {known}"))
    })
}

fn datatype(signature: &Signature, index: usize) -> Result<DataType> {
    let port = &signature.inputs[index];
    let tensor = port.tensor().ok_or_else(|| {
        let (name, kind) = (&port.name, &port.kind);
        Error::invalid(format!("input \"{name}\" is a {kind}, which JSON lists cannot carry"))
    })?;
    Ok(tensor.datatype)
}

fn tensor_reader(signature: &Signature, index: usize) -> Result<TensorReader> {
    TensorReader::new(datatype(signature, index)?)
        .map_err(|error| named(error, &signature.inputs[index].name))
}

fn named(error: Error, name: &str) -> Error {
    error.context(format_args!("input \"{name}\""))
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
