//! Nested lists, and lists of rows.

use crate::json::{Reader, TensorReader};
use crate::v2::known_input;
use drisse_core::{Buffer, Data, DataType, Dim, Error, Inputs, Result, Shape, Signature, Tensor};

/// Reads the value of a member that is not an input of the model, or refuses it.
pub(super) type Other<'o> = dyn FnMut(&mut Reader<'_>, &str) -> Result<()> + 'o;

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
    columns_or(reader, signature, inputs, &mut |_, name| known_input(signature, name).map(drop))
}

pub(super) fn columns_or(
    reader: &mut Reader<'_>,
    signature: &Signature,
    inputs: &mut Inputs,
    other: &mut Other<'_>,
) -> Result<()> {
    if reader.peek() == Some(b'{') && !is_base64(reader, signature) {
        return reader.object(|reader, name| {
            let Some((index, port)) = signature.input(name) else { return other(reader, name) };
            // `null` omits an optional input; of other inputs it is a NaN.
            if port.may_be_absent() && reader.word_null() {
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

/// Reads a list of rows, each a row of the only input or an object of rows by input name.
pub(crate) fn rows(reader: &mut Reader<'_>, signature: &Signature, inputs: &mut Inputs) -> Result<()> {
    rows_or(reader, signature, inputs, &mut |_, name| known_input(signature, name).map(drop))
}

pub(super) fn rows_or(
    reader: &mut Reader<'_>,
    signature: &Signature,
    inputs: &mut Inputs,
    other: &mut Other<'_>,
) -> Result<()> {
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
            reader.object(|reader, name| match signature.input(name) {
                Some((index, _)) => row(reader, index),
                None => other(reader, name),
            })?;
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
    set_all(signature, inputs, readers, !first)
}

/// Sets the inputs that were read row by row; `any` is whether there was a row.
pub(super) fn set_all(
    signature: &Signature,
    inputs: &mut Inputs,
    readers: Vec<Option<TensorReader>>,
    any: bool,
) -> Result<()> {
    let mut length = None;
    for (index, reader) in readers.into_iter().enumerate() {
        let Some(reader) = reader else { continue };
        if !any && signature.is_beside_rows(index) {
            // Without a row there is no value for all rows: the error says that it is missing.
            length.get_or_insert(0);
            continue;
        }
        let mut tensor = reader.finish();
        if tensor.shape.is_empty() {
            // A column without rows: its reader has read nothing, which looks like a scalar.
            tensor.shape.push(0);
        }
        let rows = tensor.shape.first().copied().unwrap_or(0);
        if *length.get_or_insert(rows) != rows {
            return Err(Error::invalid("the rows do not all have the same inputs"));
        }
        if rows > 0 && signature.is_beside_rows(index) {
            one_for_all(&mut tensor, rows).map_err(|error| named(error, &signature.inputs[index].name))?;
        } else if rows > 0 {
            as_column(signature, index, &mut tensor);
        }
        set(signature, inputs, index, tensor)?;
    }
    if length.is_none() && !any {
        // No rows: an empty batch of every required input that has rows.
        let has_rows =
            |&index: &usize| !signature.inputs[index].may_be_absent() && !signature.is_beside_rows(index);
        for index in (0..signature.inputs.len()).filter(has_rows) {
            let mut none = tensor_reader(signature, index)?.finish();
            none.shape.push(0);
            set(signature, inputs, index, none)?;
        }
    }
    Ok(())
}

/// Sets a tensor read from nested lists, and completes its shape where lists cannot express it.
fn set(signature: &Signature, inputs: &mut Inputs, index: usize, mut tensor: Tensor) -> Result<()> {
    let wanted = signature.inputs[index].tensor().and_then(|wanted| wanted.shape.as_deref());
    match (wanted, tensor.shape.as_slice()) {
        // Empty lists do not show the dimensions within them: `[]` has no rows, whatever the shape of a row.
        (Some(dims), [.., 0]) if dims.len() > tensor.shape.len() => {
            let within = dims[tensor.shape.len()..].iter();
            tensor.shape.extend(within.map(|dim| if let Dim::Fixed(length) = dim { *length } else { 0 }));
        }
        // A column of n scalars, as in a table.
        (Some([_, Dim::Fixed(1)]), [_]) => tensor.shape.push(1),
        // A scalar for an input of one element.
        (Some(dims), []) if dims.iter().all(|dim| *dim == Dim::Fixed(1)) => {
            tensor.shape = Shape::from_elem(1, dims.len());
        }
        _ => {}
    }
    inputs.set(signature, index, tensor)
}

/// Reshapes a column of n scalars to `[n, 1]` if the model's input has two dimensions.
fn as_column(signature: &Signature, index: usize, tensor: &mut Tensor) {
    let wanted = signature.inputs[index].tensor().and_then(|wanted| wanted.shape.as_ref()).map(Vec::len);
    if tensor.shape.len() == 1 && wanted == Some(2) {
        tensor.shape.push(1);
    }
}

/// Makes a scalar of a column with the same scalar in each of its `rows`.
fn one_for_all(tensor: &mut Tensor, rows: i64) -> Result<()> {
    if tensor.shape.iter().skip(1).any(|&length| length != 1) {
        // The error that shows the shape says more.
        return Ok(());
    }
    let count = usize::try_from(rows).unwrap_or(1);
    let (first, same) = match &tensor.data {
        Data::Raw(buffer) => {
            let mut each = buffer.bytes().chunks_exact(buffer.len() / count);
            let first = each.next().unwrap_or_default();
            (Data::Raw(Buffer::copy_from(first)), each.all(|other| other == first))
        }
        Data::Strings(strings) => {
            let mut each = strings.iter();
            let first = each.next();
            (Data::Strings(strings.slice(0..1)), each.all(|other| Some(other) == first))
        }
    };
    if !same {
        return Err(Error::invalid("it takes one value for all rows, and the rows have different ones"));
    }
    (tensor.shape, tensor.data) = (Shape::new(), first);
    Ok(())
}

pub(super) fn only(signature: &Signature) -> Result<usize> {
    signature.only_input().map(|(index, _)| index).ok_or_else(|| {
        if signature.inputs.is_empty() {
            return Error::invalid("the model takes no inputs: send {\"data\": {}}");
        }
        let known = signature.input_names();
        Error::invalid(format!("the model has several inputs: send an object with {known}"))
    })
}

pub(super) fn tensor_reader(signature: &Signature, index: usize) -> Result<TensorReader> {
    let port = &signature.inputs[index];
    let tensor = port.tensor().ok_or_else(|| {
        let (name, kind) = (&port.name, &port.kind);
        Error::invalid(format!("input \"{name}\" is a {kind}, which JSON lists cannot carry"))
    })?;
    let reader = TensorReader::new(tensor.datatype).map_err(|error| named(error, &port.name))?;
    Ok(reader.null_as_empty())
}

pub(super) fn named(error: Error, name: &str) -> Error {
    error.context(format_args!("input \"{name}\""))
}
