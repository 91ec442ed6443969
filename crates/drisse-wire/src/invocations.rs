//! Requests to `/invocations`, the endpoint of MLflow's scoring server and of SageMaker: a pandas table or tensors in,
//! `predictions` out.
//!
//! Sources: <https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#inference-server-specification>,
//! <https://docs.aws.amazon.com/sagemaker/latest/dg/cdf-inference.html>

use crate::json::{Reader, Writer, well_formed};
use crate::score::{self, Body};
use drisse_core::{DataType, Error, ErrorKind, Result, Signature};

/// The format of a request body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// An object with `dataframe_split`, `dataframe_records`, `instances` or `inputs`.
    Json,
    /// Only the value of `dataframe_split`, as in MLflow 1.
    Split,
    /// Only the value of `dataframe_records`, as in MLflow 1.
    Records,
    /// Rows of numbers or text, with or without a header of column names.
    Csv,
}

impl Format {
    /// Returns the format that a content type names; without one, JSON.
    ///
    /// # Errors
    /// Returns an error of the kind `UnsupportedMediaType` if the parameter `format` names an unknown format.
    pub fn of(content_type: Option<&str>) -> Result<Self> {
        let text = content_type.unwrap_or_default().to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let format = parts.find_map(|part| part.strip_prefix("format=")).unwrap_or_default();
        match (essence, format) {
            ("text/csv", _) => Ok(Self::Csv),
            (_, "pandas-split") => Ok(Self::Split),
            (_, "pandas-records") => Ok(Self::Records),
            (_, "") => Ok(Self::Json),
            (_, other) => {
                let message =
                    format!("the format `{other}` is not supported: use pandas-split or pandas-records");
                Err(Error::new(ErrorKind::UnsupportedMediaType, message))
            }
        }
    }
}

/// Decodes the body of `POST /invocations`. MLflow answers a table with records, one per row, and tensors with whole
/// outputs by name.
///
/// # Errors
/// Returns an error that says what cannot be parsed, or which input or column does not fit the signature.
///
/// ```
/// # use drisse_core::{DataType, Dim, Port, Signature, TensorType, ValueType};
/// use drisse_wire::invocations::{Format, decode};
/// # let kind = TensorType { datatype: DataType::Fp32, shape: Some(vec![Dim::Free(None), Dim::Fixed(2)]) };
/// # let x = Port { name: "x".to_owned(), kind: ValueType::Tensor(kind), optional: false };
/// # let signature = Signature { inputs: vec![x], outputs: vec![] };
/// // The only input is FP32 [?, 2].
/// let body = decode(b"a,b\n1,2\n3,4\n", Format::of(Some("text/csv"))?, &signature)?;
/// assert_eq!(body.inputs.get(0).map(|x| x.shape.to_vec()), Some(vec![2, 2]));
/// # Ok::<(), drisse_core::Error>(())
/// ```
pub fn decode(body: &[u8], format: Format, signature: &Signature) -> Result<Body> {
    let mut decoded = Body::new(signature);
    let mut reader = Reader::new(body);
    match format {
        Format::Json => return score::decode_body(body, signature),
        Format::Csv => {
            let table = table(body, signature)?;
            score::split(&mut Reader::new(&table), signature, &mut decoded)
                .map_err(|error| error.context("the CSV, converted to JSON"))?;
            return Ok(decoded);
        }
        Format::Split => score::split(&mut reader, signature, &mut decoded)?,
        Format::Records => score::records(&mut reader, signature, &mut decoded)?,
    }
    reader.end()?;
    Ok(decoded)
}

/// Converts a CSV to pandas' `split` form in JSON. Numbers stay numbers; an empty cell is a missing value.
fn table(body: &[u8], signature: &Signature) -> Result<Vec<u8>> {
    let broken = |error: csv::Error| Error::invalid(format!("the CSV cannot be read: {error}"));
    let mut lines = csv::ReaderBuilder::new().has_headers(false).from_reader(body);
    let mut row = csv::StringRecord::new();
    if !lines.read_record(&mut row).map_err(broken)? {
        return Err(Error::invalid("the CSV has no rows"));
    }
    let text_only = signature
        .only_input()
        .and_then(|(_, port)| port.tensor())
        .is_some_and(|only| only.datatype == DataType::Bytes);
    let known = |name: &str| signature.input(name).is_some();
    // The first row is a header if it has only names of inputs, or all of them, or, for a single numeric input, anything
    // that is not a number.
    let head = row.iter().all(known)
        || score::names_inputs(signature, &row.iter().collect::<Vec<_>>())
        || !text_only && signature.only_input().is_some() && !row.iter().all(is_value);
    let texts = |column: &str| {
        signature.input(column).map_or(text_only, |(_, port)| {
            port.tensor().is_some_and(|tensor| tensor.datatype == DataType::Bytes)
        })
    };
    let mut out = Writer::new();
    let mut quoted = vec![text_only; row.len()];
    if head {
        out.raw("{\"columns\":");
        out.list(&row, |out, name| out.string(name));
        out.raw(",\"data\":[");
        quoted = row.iter().map(texts).collect();
    } else {
        out.raw("{\"data\":[");
        cells(&mut out, &row, &quoted);
    }
    let mut first = head;
    while lines.read_record(&mut row).map_err(broken)? {
        out.raw(if std::mem::take(&mut first) { "" } else { "," });
        cells(&mut out, &row, &quoted);
    }
    out.raw("]}");
    Ok(out.into_bytes())
}

fn cells(out: &mut Writer, row: &csv::StringRecord, quoted: &[bool]) {
    out.list(row.iter().zip(quoted), |out, (cell, quoted)| match cell {
        _ if *quoted => out.string(cell),
        "" => out.raw("null"),
        "True" => out.raw("true"),
        "False" => out.raw("false"),
        _ if is_value(cell) => out.raw(cell.trim()),
        // Not a number: kept as text, so that the error shows it.
        _ => out.string(cell),
    });
}

fn is_value(cell: &str) -> bool {
    let cell = cell.trim_ascii();
    well_formed(cell.as_bytes()) || matches!(cell, "" | "NaN" | "true" | "false" | "True" | "False")
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_core::{Data, Dim, Port, Tensor, TensorType, ValueType};
    use proptest::prelude::*;

    fn port(name: &str, datatype: DataType, dims: &[Dim]) -> Port {
        let kind = ValueType::Tensor(TensorType { datatype, shape: Some(dims.to_vec()) });
        Port { name: name.to_owned(), kind, optional: false }
    }

    fn matrix() -> Signature {
        let dims = [Dim::Free(None), Dim::Fixed(2)];
        Signature { inputs: vec![port("x", DataType::Fp32, &dims)], outputs: vec![] }
    }

    fn columns() -> Signature {
        let column = [Dim::Free(None), Dim::Fixed(1)];
        let inputs = vec![port("age", DataType::Int64, &column), port("city", DataType::Bytes, &column)];
        Signature { inputs, outputs: vec![] }
    }

    fn floats(tensor: &Tensor) -> Vec<f32> {
        let Data::Raw(buffer) = &tensor.data else { panic!("strings") };
        buffer.elements().to_vec()
    }

    #[test]
    fn a_csv_has_its_columns_names_in_front_or_not() {
        for csv in ["1,2\n3,4\n", "a,b\n1,2\n3,4", "\"1\", 2\r\n3,4\r\n"] {
            let inputs = decode(csv.as_bytes(), Format::Csv, &matrix()).unwrap().inputs;
            let x = inputs.get(0).unwrap();
            assert_eq!((floats(x), x.shape.as_slice()), (vec![1.0, 2.0, 3.0, 4.0], &[2, 2][..]), "{csv}");
        }
        let missing = decode(b"1,\n", Format::Csv, &matrix()).unwrap().inputs;
        assert!(floats(missing.get(0).unwrap())[1].is_nan());
    }

    #[test]
    fn named_columns_are_inputs_and_numbers_in_a_column_of_text_are_text() {
        let csv = b"city,age,more\nBern,3,x\n\"7, rue\",4,y\n12,5,z\n,6,\n";
        let Body { inputs, ignored, .. } = decode(csv, Format::Csv, &columns()).unwrap();
        assert_eq!(ignored.header(), "more");
        let Data::Strings(cities) = &inputs.get(1).unwrap().data else { panic!("numbers") };
        assert_eq!(cities.iter().collect::<Vec<_>>(), [b"Bern" as &[u8], b"7, rue", b"12", b""]);
        assert_eq!(inputs.get(0).unwrap().shape.as_slice(), [4, 1]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        for (csv, why) in [("", "has no rows"), ("1,2\n3\n", "CSV"), ("1,2\n3,x\n", "expected a number")] {
            let error = decode(csv.as_bytes(), Format::Csv, &matrix()).unwrap_err();
            assert!(error.message().contains(why), "{csv}: {error}");
        }
    }

    #[test]
    fn the_content_type_says_the_format() {
        assert_eq!(Format::of(None).unwrap(), Format::Json);
        assert_eq!(Format::of(Some("text/csv; header=present")).unwrap(), Format::Csv);
        assert_eq!(Format::of(Some("application/json; format=pandas-split")).unwrap(), Format::Split);
        assert!(Format::of(Some("application/json; format=tf")).is_err());
    }

    proptest! {
        #[test]
        fn no_csv_makes_it_panic(text in "[a-z0-9,\"\n\r .-]{0,60}") {
            let _ = decode(text.as_bytes(), Format::Csv, &columns());
            let _ = decode(text.as_bytes(), Format::Csv, &matrix());
        }
    }
}
