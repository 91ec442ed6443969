//! Tables as pandas prints them: columns in front of the rows, records, and lists by column.

use super::lists::{columns, columns_or, is_base64, named, rows_or, set_all, tensor_reader};
use super::{Body, Layout};
use crate::json::{Reader, TensorReader};
use drisse_core::{Dim, Error, Port, Result, Shape, Signature, Tensor};

/// What the columns of a table are.
enum Columns {
    /// Inputs of the model, except those that are ignored.
    Inputs,
    /// Together the rows of the only input, which has this index.
    Matrix(usize),
}

/// What is known of a table before its rows are read.
#[derive(Default)]
struct Head {
    names: Vec<String>,
    /// Whether a cell of the first row is a list.
    has_lists: bool,
}

impl Head {
    /// Adds the column whose first cell comes next.
    fn add(&mut self, name: &str, reader: &mut Reader<'_>) {
        self.names.push(name.to_owned());
        self.has_lists |= reader.peek() == Some(b'[');
    }

    /// Returns what the columns are. MLflow ignores columns that the signature does not name, if all that it requires are
    /// there.
    fn columns(&self, signature: &Signature) -> Result<Columns> {
        let Some(unknown) = self.names.iter().find(|name| signature.input(name).is_none()) else {
            return Ok(Columns::Inputs);
        };
        let named = names_inputs(signature, &self.names);
        match signature.only_input() {
            // Columns of the matrix `X` may include one of this name.
            Some((index, port)) if !named || !self.has_lists && is_as_wide(port, self.names.len()) => {
                Ok(Columns::Matrix(index))
            }
            _ if named => Ok(Columns::Inputs),
            _ => Err(unknown_column(signature, unknown)),
        }
    }

    /// Returns what the columns are, where each value of a matrix has a place of its own, which cannot hold a list.
    fn columns_of_scalars(&self, signature: &Signature) -> Result<Columns> {
        match self.columns(signature)? {
            Columns::Matrix(_) if self.has_lists => Err(unknown_column(signature, &self.names[0])),
            columns => Ok(columns),
        }
    }
}

fn unknown_column(signature: &Signature, column: &str) -> Error {
    let known = signature.input_names();
    Error::invalid(format!("column \"{column}\" is not an input of the model; its inputs are {known}"))
}

/// Whether rows of an input may have this many elements.
fn is_as_wide(port: &Port, columns: usize) -> bool {
    let Some(tensor) = port.tensor() else { return false };
    match tensor.shape.as_deref() {
        None | Some([_, Dim::Free(_)]) => true,
        Some([_, Dim::Fixed(length)]) => usize::try_from(*length) == Ok(columns),
        Some(_) => false,
    }
}

/// Whether inputs of the model are among the names, and all that a request must have.
pub(crate) fn names_inputs(signature: &Signature, names: &[impl AsRef<str>]) -> bool {
    let given = |name: &str| names.iter().any(|given| given.as_ref() == name);
    let mut inputs = signature.inputs.iter();
    inputs.clone().any(|port| given(&port.name))
        && inputs.all(|port| port.may_be_absent() || given(&port.name))
}

/// Whether a list of objects comes next that are not base64.
pub(super) fn is_records(reader: &Reader<'_>, signature: &Signature) -> bool {
    let mut ahead = reader.clone();
    ahead.take(b'[') && ahead.peek() == Some(b'{') && !is_base64(&ahead, signature)
}

/// Whether an object with `data` comes next, and `columns` or nothing but `index` beside it, which are not inputs of the
/// model.
fn is_split(reader: &Reader<'_>, signature: &Signature) -> bool {
    let mut ahead = reader.clone();
    let (mut data, mut columns, mut others) = (false, false, false);
    let read = ahead.peek() == Some(b'{')
        && ahead
            .object(|reader, name| {
                match name {
                    _ if signature.input(name).is_some() => others = true,
                    "data" => data = true,
                    "columns" => columns = true,
                    "index" => {}
                    _ => others = true,
                }
                reader.skip()
            })
            .is_ok();
    read && data && (columns || !others)
}

/// Reads the only input as nested lists, inputs or columns by name, records, or pandas' `split` form.
pub(super) fn any(reader: &mut Reader<'_>, signature: &Signature, body: &mut Body) -> Result<()> {
    if is_records(reader, signature) {
        records(reader, signature, body)
    } else if is_split(reader, signature) {
        split(reader, signature, body)
    } else {
        by_column(reader, signature, body)
    }
}

/// Reads Azure ML's `Inputs`: as [`any`], or an object with that under the name of the web service's input, such as
/// `data` and `input1`.
pub(super) fn wrapped(reader: &mut Reader<'_>, signature: &Signature, body: &mut Body) -> Result<()> {
    let mut ahead = reader.clone();
    let (mut members, mut inner) = (0, None);
    if ahead.peek() == Some(b'{') && !is_base64(&ahead, signature) {
        ahead.members(|reader, name| {
            members += 1;
            inner =
                (signature.input(name).is_none() || is_records(reader, signature)).then(|| reader.clone());
            reader.skip()
        })?;
    }
    let Some(mut inner) = inner.filter(|_| members == 1) else { return any(reader, signature, body) };
    any(&mut inner, signature, body)?;
    *reader = ahead;
    Ok(())
}

/// Reads the only input as nested lists, or an object of inputs or columns by name.
pub(super) fn by_column(reader: &mut Reader<'_>, signature: &Signature, body: &mut Body) -> Result<()> {
    let mut start = reader.clone();
    let Body { inputs, ignored, .. } = body;
    columns_or(reader, signature, inputs, &mut |reader, name| {
        ignored.add(name);
        reader.skip()
    })?;
    if ignored.is_empty() {
        return Ok(());
    }
    let (mut head, mut lists) = (Head::default(), Vec::new());
    start.object(|reader, name| {
        lists.push(reader.clone());
        let mut cells = reader.clone();
        cells.take(b'[');
        head.add(name, &mut cells);
        reader.skip()
    })?;
    if let Columns::Matrix(index) = head.columns_of_scalars(signature)? {
        *body = Body::new(signature);
        let tensor = matrix_of_lists(signature, index, &head.names, lists)?;
        body.inputs.set(signature, index, tensor)?;
    }
    Ok(())
}

/// Reads a matrix from the lists of its columns, which come next in these readers.
fn matrix_of_lists(
    signature: &Signature,
    index: usize,
    names: &[String],
    lists: Vec<Reader<'_>>,
) -> Result<Tensor> {
    let mut tensor = tensor_reader(signature, index)?;
    let mut columns = Vec::with_capacity(names.len());
    for (name, mut list) in names.iter().zip(lists) {
        list.enter_array().map_err(|error| named(error, name))?;
        let goes_on = !list.take(b']');
        columns.push((name, list, goes_on));
    }
    let mut rows: i64 = 0;
    while columns.iter().any(|(.., goes_on)| *goes_on) {
        rows += 1;
        for (name, list, goes_on) in &mut columns {
            if !*goes_on {
                return Err(Error::invalid(format!("column \"{name}\" is shorter than others")));
            }
            tensor.read_row(list).map_err(|error| named(error, name))?;
            *goes_on = list.goes_on()?;
        }
    }
    matrix(tensor, rows, names, &signature.inputs[index].name)
}

/// Reads `{"columns": [names], "data": [[row], …]}`, as `DataFrame.to_json(orient="split")` prints it.
pub(crate) fn split(reader: &mut Reader<'_>, signature: &Signature, body: &mut Body) -> Result<()> {
    body.layout = Layout::Rows;
    let mut names: Option<Vec<String>> = None;
    let mut data = None;
    reader.members(|reader, key| match key {
        "columns" => {
            let names = names.insert(Vec::new());
            reader.array(|reader| {
                // pandas numbers columns without a name.
                names.push(reader.string_or_number()?.into_owned());
                Ok(())
            })
        }
        "data" => {
            data = Some(reader.position());
            reader.skip()
        }
        _ => reader.skip(),
    })?;
    let data = data.ok_or_else(|| {
        Error::invalid("the table has no `data`: send {\"columns\": […], \"data\": [[…], …]}")
    })?;
    let mut reader = reader.again(data);
    let Some(names) = names else { return columns(&mut reader, signature, &mut body.inputs) };
    let mut head = Head { names, has_lists: false };
    let mut ahead = reader.clone();
    if ahead.take(b'[') && ahead.peek() == Some(b'[') {
        ahead.array(|reader| {
            head.has_lists |= reader.peek() == Some(b'[');
            reader.skip()
        })?;
    }
    if let Columns::Matrix(_) = head.columns(signature)? {
        return columns(&mut reader, signature, &mut body.inputs);
    }
    let names = head.names;
    let mut readers: Vec<Option<TensorReader>> = signature.inputs.iter().map(|_| None).collect();
    let mut indexes = Vec::with_capacity(names.len());
    for name in &names {
        let index = signature.input(name).map(|(index, _)| index);
        match index {
            None => body.ignored.add(name),
            Some(index) if readers[index].is_none() => {
                readers[index] = Some(tensor_reader(signature, index)?)
            }
            Some(_) => return Err(Error::invalid(format!("column \"{name}\" is given twice"))),
        }
        indexes.push(index);
    }
    let mut any = false;
    reader.array(|reader| {
        any = true;
        let mut cells = indexes.iter().zip(&names);
        reader.array(|reader| {
            let Some((index, name)) = cells.next() else {
                return Err(reader.error("a row is longer than `columns`"));
            };
            let Some(index) = *index else { return reader.skip() };
            let tensor = readers[index].as_mut().expect("created above");
            tensor.read_row(reader).map_err(|error| named(error, name))
        })?;
        if cells.next().is_some() { Err(reader.error("a row is shorter than `columns`")) } else { Ok(()) }
    })?;
    set_all(signature, &mut body.inputs, readers, any)
}

/// Reads `[{"column": value, …}, …]`, as `DataFrame.to_json(orient="records")` prints it.
pub(crate) fn records(reader: &mut Reader<'_>, signature: &Signature, body: &mut Body) -> Result<()> {
    body.layout = Layout::Rows;
    let mut head = Head::default();
    let mut ahead = reader.clone();
    if ahead.take(b'[') && ahead.peek() == Some(b'{') {
        ahead.object(|reader, name| {
            head.add(name, reader);
            reader.skip()
        })?;
    }
    let Body { inputs, ignored, .. } = body;
    match head.columns_of_scalars(signature)? {
        Columns::Inputs => rows_or(reader, signature, inputs, &mut |reader, name| {
            ignored.add(name);
            reader.skip()
        }),
        Columns::Matrix(index) => {
            let tensor = matrix_of_records(reader, signature, index, &head.names)?;
            inputs.set(signature, index, tensor)
        }
    }
}

/// Reads a matrix from records, whose columns are in the order of the first record.
fn matrix_of_records(
    reader: &mut Reader<'_>,
    signature: &Signature,
    index: usize,
    names: &[String],
) -> Result<Tensor> {
    let mut tensor = tensor_reader(signature, index)?;
    let mut rows: i64 = 0;
    reader.array(|reader| {
        let mut cells: Vec<(String, usize)> = Vec::new();
        reader.object(|reader, name| {
            cells.push((name.to_owned(), reader.position()));
            reader.skip()
        })?;
        rows += 1;
        if cells.len() != names.len() {
            return Err(reader.error("the records do not all have the same columns"));
        }
        for (nth, column) in names.iter().enumerate() {
            let same = cells.get(nth).filter(|(name, _)| name == column);
            let cell = same.or_else(|| cells.iter().find(|(name, _)| name == column));
            let Some((_, at)) = cell else {
                return Err(reader.error(format_args!("a record has no \"{column}\"")));
            };
            tensor.read_row(&mut reader.again(*at)).map_err(|error| named(error, column))?;
        }
        Ok(())
    })?;
    matrix(tensor, rows, names, &signature.inputs[index].name)
}

fn matrix(tensor: TensorReader, rows: i64, columns: &[String], input: &str) -> Result<Tensor> {
    let shape = Shape::from_slice(&[rows, columns.len() as i64]);
    tensor.finish_as(shape, format_args!("input \"{input}\""))
}
