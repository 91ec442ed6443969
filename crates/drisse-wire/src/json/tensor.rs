//! Parses nested lists of numbers, booleans or strings straight into a tensor of a given datatype.

use super::Reader;
use super::number::{self, Float};
use super::reader::well_formed;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use drisse_core::{Buffer, Data, DataType, Element, Error, Result, Shape, Strings, Tensor, element_count};
use half::{bf16, f16};
use std::fmt;

/// Builds one tensor from a nested list, or from several rows.
///
/// ```
/// use drisse_core::DataType;
/// use drisse_wire::json::{Reader, TensorReader};
///
/// let mut tensor = TensorReader::new(DataType::Int64)?;
/// tensor.read(&mut Reader::new(b"[[1, 2, 3], [4, 5, 6]]"))?;
/// assert_eq!(tensor.finish().shape.as_slice(), [2, 3]);
/// # Ok::<(), drisse_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorReader {
    datatype: DataType,
    data: Data,
    elements: usize,
    /// Length of each dimension, outermost first; -1 until the first list of that depth has ended.
    shape: Shape,
    /// Depth of the elements; `None` until the first one is read.
    leaf: Option<usize>,
    /// Whether `null` is an empty string.
    null_is_empty: bool,
}

impl TensorReader {
    /// Returns a reader for elements of `datatype`.
    ///
    /// # Errors
    /// Returns an error if JSON cannot represent the datatype.
    pub fn new(datatype: DataType) -> Result<Self> {
        if !datatype.has_json_form() {
            return Err(Error::invalid(format!("JSON cannot represent {datatype} elements")));
        }
        let data = match datatype {
            DataType::Bytes => Data::Strings(Strings::default()),
            _ => Data::Raw(Buffer::new()),
        };
        Ok(Self { datatype, data, elements: 0, shape: Shape::new(), leaf: None, null_is_empty: false })
    }

    /// Makes a `null` among strings an empty string: a missing value of a table, as an empty cell of a CSV is. Without this
    /// it is refused.
    pub fn null_as_empty(self) -> Self {
        Self { null_is_empty: true, ..self }
    }

    /// Reserves memory for `elements` elements, but for no more than the rest of the body can contain.
    pub fn reserve(&mut self, elements: usize, reader: &Reader<'_>) {
        // An element takes at least two bytes: one for itself, and a comma or bracket after it.
        let elements = elements.min(reader.rest().len() / 2);
        if let (Data::Raw(buffer), Some(bytes)) = (&mut self.data, self.datatype.byte_size(elements)) {
            buffer.reserve(bytes);
        }
    }

    /// Reads the tensor: a scalar, or lists nested to any depth; lists of the same depth have the same length.
    ///
    /// # Errors
    /// Returns an error if the lists are ragged, or if an element does not fit the datatype.
    pub fn read(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        self.level(reader, 0)
    }

    /// Reads one more row of a batch: the first dimension counts the calls, the row has the others.
    ///
    /// # Errors
    /// As for [`Self::read`]; also if the row's shape differs from that of earlier rows.
    pub fn read_row(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        if self.shape.is_empty() {
            self.shape.push(0);
        }
        self.level(reader, 1)?;
        self.shape[0] += 1;
        Ok(())
    }

    /// Returns the tensor with the shape of the lists.
    pub fn finish(mut self) -> Tensor {
        // A failed `read` leaves -1 for lists that did not end.
        self.shape.iter_mut().for_each(|dim| *dim = (*dim).max(0));
        Tensor { datatype: self.datatype, shape: self.shape, data: self.data }
    }

    /// Returns the tensor with the `shape` that the request states. `what` names the tensor in errors.
    ///
    /// # Errors
    /// Returns an error if `shape` has another number of elements, or if the lists are neither flat nor nested as
    /// `shape` is.
    pub fn finish_as(self, shape: Shape, what: fmt::Arguments<'_>) -> Result<Tensor> {
        let wanted = element_count(&shape)
            .ok_or_else(|| Error::invalid(format!("{what}: shape {shape:?} is negative or too large")))?;
        if wanted != self.elements {
            let given = self.elements;
            return Err(Error::invalid(format!(
                "{what}: shape {shape:?} holds {wanted} elements, data has {given}"
            )));
        }
        if self.shape.len() > 1 && self.elements > 0 && self.shape != shape {
            let given = self.shape;
            return Err(Error::invalid(format!(
                "{what}: data is nested as {given:?}, not as shape {shape:?}"
            )));
        }
        Ok(Tensor { datatype: self.datatype, shape, data: self.data })
    }

    fn level(&mut self, reader: &mut Reader<'_>, depth: usize) -> Result<()> {
        if reader.peek() != Some(b'[') {
            return match self.leaf {
                Some(leaf) if leaf != depth => Err(ragged(reader)),
                _ if self.shape.len() > depth => Err(ragged(reader)),
                _ => {
                    self.leaf = Some(depth);
                    self.elements += 1;
                    match &mut self.data {
                        Data::Raw(buffer) => element(reader, self.datatype, buffer),
                        Data::Strings(strings) => string(reader, strings, self.null_is_empty),
                    }
                }
            };
        }
        if self.leaf.is_some_and(|leaf| depth >= leaf) {
            return Err(ragged(reader));
        }
        if self.shape.len() == depth {
            self.shape.push(-1);
        }
        reader.enter_array()?;
        let mut length = 0;
        if !reader.take(b']') {
            if !matches!(reader.peek(), Some(b'[')) && self.leaf.is_none_or(|leaf| leaf == depth + 1) {
                if self.shape.len() > depth + 1 {
                    return Err(ragged(reader));
                }
                self.leaf = Some(depth + 1);
                length = self.run(reader)?;
            } else {
                loop {
                    self.level(reader, depth + 1)?;
                    length += 1;
                    if reader.take(b']') {
                        break;
                    }
                    reader.expect(b',')?;
                }
            }
        }
        reader.leave();
        match &mut self.shape[depth] {
            known if *known == -1 => *known = length,
            known if *known == length => {}
            known => {
                let known = *known;
                let why = format_args!("lists of lengths {known} and {length} are at the same depth");
                return Err(reader.error(why));
            }
        }
        Ok(())
    }

    /// Reads the elements of an innermost list and its `]`; returns their number.
    fn run(&mut self, reader: &mut Reader<'_>) -> Result<i64> {
        let (datatype, null_is_empty) = (self.datatype, self.null_is_empty);
        let count = match (&mut self.data, datatype) {
            // The most frequent datatypes have loops of their own.
            (Data::Raw(buffer), DataType::Fp32) => floats::<f32>(reader, datatype, buffer),
            (Data::Raw(buffer), DataType::Fp64) => floats::<f64>(reader, datatype, buffer),
            (Data::Raw(buffer), _) => list(reader, |reader| element(reader, datatype, buffer)),
            (Data::Strings(strings), _) => list(reader, |reader| string(reader, strings, null_is_empty)),
        }?;
        self.elements += count;
        Ok(count as i64)
    }
}

/// Reads the elements of a list that is not empty, and its `]`; returns their number.
#[inline]
fn list<'a>(
    reader: &mut Reader<'a>,
    mut element: impl FnMut(&mut Reader<'a>) -> Result<()>,
) -> Result<usize> {
    let mut count = 0;
    loop {
        element(reader)?;
        count += 1;
        if !reader.goes_on()? {
            return Ok(count);
        }
    }
}

/// Reads a list of floats and appends 16 at once: the buffer's checks for every single one would add up.
fn floats<T: Float + Element>(
    reader: &mut Reader<'_>,
    datatype: DataType,
    buffer: &mut Buffer,
) -> Result<usize> {
    let (mut some, mut held) = ([T::NAN; 16], 0);
    let count = list(reader, |reader| {
        if held == some.len() {
            buffer.extend_from(&some);
            held = 0;
        }
        some[held] = float(reader, datatype)?;
        held += 1;
        Ok(())
    })?;
    buffer.extend_from(&some[..held]);
    Ok(count)
}

fn element(reader: &mut Reader<'_>, datatype: DataType, buffer: &mut Buffer) -> Result<()> {
    match datatype {
        DataType::Fp32 => buffer.push(float::<f32>(reader, datatype)?),
        DataType::Fp64 => buffer.push(float::<f64>(reader, datatype)?),
        // Rounding twice is exact enough: an f64 has more than twice the digits of either, plus 2.
        DataType::Fp16 => buffer.push(narrow(reader, datatype, f16::from_f64, f16::is_infinite)?),
        DataType::Bf16 => buffer.push(narrow(reader, datatype, bf16::from_f64, bf16::is_infinite)?),
        DataType::Bool => buffer.push(boolean(reader)?),
        DataType::Int8 => buffer.push(integer::<i8>(reader, datatype)?),
        DataType::Int16 => buffer.push(integer::<i16>(reader, datatype)?),
        DataType::Int32 => buffer.push(integer::<i32>(reader, datatype)?),
        DataType::Int64 => buffer.push(integer::<i64>(reader, datatype)?),
        DataType::Uint8 => buffer.push(integer::<u8>(reader, datatype)?),
        DataType::Uint16 => buffer.push(integer::<u16>(reader, datatype)?),
        DataType::Uint32 => buffer.push(integer::<u32>(reader, datatype)?),
        _ => buffer.push(integer::<u64>(reader, datatype)?),
    }
    Ok(())
}

/// Reads a string, or bytes in TensorFlow Serving's form `{"b64": "…"}`.
fn string(reader: &mut Reader<'_>, strings: &mut Strings, null_is_empty: bool) -> Result<()> {
    match reader.peek() {
        Some(b'"') => strings.push(reader.string()?.as_bytes()),
        Some(b'{') => {
            let mut bytes = None;
            let start = reader.position();
            reader.object(|reader, key| {
                if key == "b64" {
                    bytes = from_base64(&reader.string()?);
                } else {
                    reader.skip()?
                }
                Ok(())
            })?;
            let refused = || reader.error_at(start, "expected bytes as {\"b64\": \"…\"} with valid base64");
            strings.push(&bytes.ok_or_else(refused)?);
        }
        _ if null_is_empty && reader.word("null") => strings.push(b""),
        _ => return Err(reader.unexpected("a string (the datatype is BYTES)")),
    }
    Ok(())
}

/// Decodes base64: of the standard alphabet or the one for URLs, with or without padding and line ends.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const ANY_PADDING: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, ANY_PADDING);
    let standard = |byte: u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    let plain = || text.bytes().filter(|byte| !byte.is_ascii_whitespace()).map(standard).collect::<Vec<_>>();
    BASE64.decode(text).or_else(|_| BASE64.decode(plain())).ok()
}

fn ragged(reader: &Reader<'_>) -> Error {
    reader.error("lists of one tensor are nested to different depths")
}

#[inline]
fn float<T: Float>(reader: &mut Reader<'_>, datatype: DataType) -> Result<T> {
    match reader.peek() {
        Some(b'0'..=b'9' | b'-') => {}
        _ => return float_word(reader, datatype),
    }
    match number::read::<T>(reader.rest()) {
        Some((value, len)) if !value.is_infinite() => {
            reader.advance(len);
            Ok(value)
        }
        Some((_, len)) => Err(out_of_range(reader, &reader.rest()[..len], datatype)),
        None if reader.word("-Infinity") => Ok(T::NEG_INFINITY),
        None => {
            let number = reader.number();
            Err(reader.error(format_args!("`{}` is not a number", shown(number))))
        }
    }
}

#[cold]
fn float_word<T: Float>(reader: &mut Reader<'_>, datatype: DataType) -> Result<T> {
    if reader.word("null") || reader.word("NaN") {
        Ok(T::NAN)
    } else if reader.word("Infinity") {
        Ok(T::INFINITY)
    } else {
        Err(reader.unexpected(&format!("a number (the datatype is {datatype})")))
    }
}

fn narrow<T>(
    reader: &mut Reader<'_>,
    datatype: DataType,
    convert: fn(f64) -> T,
    is_infinite: fn(T) -> bool,
) -> Result<T>
where
    T: Copy,
{
    let start = reader.position();
    let wide = float::<f64>(reader, datatype)?;
    let value = convert(wide);
    if is_infinite(value) && wide.is_finite() {
        return Err(reader.error_at(start, format_args!("{wide} is out of range for {datatype}")));
    }
    Ok(value)
}

fn boolean(reader: &mut Reader<'_>) -> Result<u8> {
    reader.peek();
    // Clients that keep booleans in integer arrays send 0 and 1.
    if reader.word("true") || reader.word("1") {
        Ok(1)
    } else if reader.word("false") || reader.word("0") {
        Ok(0)
    } else {
        Err(reader.unexpected("true or false (the datatype is BOOL)"))
    }
}

/// Reads an integer of `datatype`.
#[inline]
pub(crate) fn integer<T: TryFrom<i128>>(reader: &mut Reader<'_>, datatype: DataType) -> Result<T> {
    if !matches!(reader.peek(), Some(b'0'..=b'9' | b'-')) {
        return Err(reader.unexpected(&format!("an integer (the datatype is {datatype})")));
    }
    let number = reader.number();
    if !well_formed(number) {
        return Err(reader.error(format_args!("`{}` is not a number", shown(number))));
    }
    let value = plain_integer(number).or_else(|| whole_float(number));
    let Some(value) = value else {
        return Err(
            reader.error(format_args!("{} is not an integer (the datatype is {datatype})", shown(number)))
        );
    };
    T::try_from(value).map_err(|_| out_of_range(reader, number, datatype))
}

/// Parses an optional sign and digits; saturates, since only values of up to 64 bits are used. `None` for other forms.
#[inline]
fn plain_integer(number: &[u8]) -> Option<i128> {
    let (negative, digits) = match number {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let mut value: i128 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.saturating_mul(10).saturating_add(i128::from(digit - b'0'));
    }
    Some(if negative { -value } else { value })
}

/// Parses a number in float form that is an integer, such as `3.0` and `1e3`; `None` for `0.5`.
fn whole_float(number: &[u8]) -> Option<i128> {
    let value: f64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    (value.fract() == 0.0).then_some(value as i128)
}

fn out_of_range(reader: &Reader<'_>, number: &[u8], datatype: DataType) -> Error {
    reader.error(format_args!("{} is out of range for {datatype}", shown(number)))
}

/// A number for an error message, cut after 32 bytes.
fn shown(number: &[u8]) -> String {
    let text = String::from_utf8_lossy(&number[..number.len().min(32)]);
    if number.len() > 32 { format!("{text}…") } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(datatype: DataType, text: &str) -> Result<Tensor> {
        let mut reader = Reader::new(text.as_bytes());
        let mut tensor = TensorReader::new(datatype)?;
        tensor.read(&mut reader)?;
        reader.end()?;
        Ok(tensor.finish())
    }

    fn elements<T: drisse_core::Element>(tensor: &Tensor) -> Vec<T> {
        let Data::Raw(buffer) = &tensor.data else { panic!("strings") };
        buffer.elements().to_vec()
    }

    #[test]
    fn shapes_are_those_of_the_lists() {
        for (text, shape) in [
            ("1", &[][..]),
            ("[]", &[0]),
            ("[1,2]", &[2]),
            ("[[1,2,3],[4,5,6]]", &[2, 3]),
            ("[[],[]]", &[2, 0]),
            ("[[[1]],[[2]]]", &[2, 1, 1]),
        ] {
            assert_eq!(read(DataType::Int32, text).unwrap().shape.as_slice(), shape, "{text}");
        }
    }

    #[test]
    fn ragged_lists_are_refused() {
        for text in
            ["[[1],[2,3]]", "[1,[2]]", "[[1],2]", "[[1],[[2]]]", "[[],[1]]", "[[[]],[1]]", "[[[1]],[]]"]
        {
            assert!(read(DataType::Int32, text).is_err(), "{text}");
        }
    }

    #[test]
    fn null_and_nan_are_nan_and_infinity_is_itself() {
        let values: Vec<f32> = elements(&read(DataType::Fp32, "[null,NaN,Infinity,-Infinity,-0.5]").unwrap());
        assert!(values[0].is_nan() && values[1].is_nan());
        assert_eq!(values[2..], [f32::INFINITY, f32::NEG_INFINITY, -0.5]);
    }

    #[test]
    fn numbers_out_of_range_or_not_whole_are_refused_with_the_datatype() {
        for (datatype, text, why) in [
            (DataType::Int8, "[128]", "128 is out of range for INT8"),
            (DataType::Uint64, "[-1]", "-1 is out of range for UINT64"),
            (DataType::Int64, "[9223372036854775808]", "9223372036854775808 is out of range for INT64"),
            (DataType::Int32, "[0.5]", "0.5 is not an integer"),
            (DataType::Fp32, "[1e39]", "1e39 is out of range for FP32"),
            (DataType::Fp16, "[70000]", "70000 is out of range for FP16"),
            (DataType::Fp32, "[01]", "`01` is not a number"),
            (DataType::Fp32, "[\"1\"]", "expected a number (the datatype is FP32), found a string"),
            (DataType::Bytes, "[1]", "expected a string (the datatype is BYTES), found a number"),
            (DataType::Bool, "[2]", "expected true or false"),
            (DataType::Int4, "[1]", "JSON cannot represent INT4"),
        ] {
            let error = read(datatype, text).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
    }

    #[test]
    fn bytes_may_come_in_base64() {
        let tensor = read(DataType::Bytes, r#"["a", {"b64": "/w=="}]"#).unwrap();
        let Data::Strings(strings) = &tensor.data else { panic!("numbers") };
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"a" as &[u8], b"\xff"]);
        for same in ["/w==", "/w", "_w", "_w==\\n", "\\r\\n/w\\t=="] {
            let tensor = read(DataType::Bytes, &format!(r#"[{{"b64": "{same}"}}]"#)).unwrap();
            let Data::Strings(strings) = &tensor.data else { panic!("numbers") };
            assert_eq!(strings.iter().collect::<Vec<_>>(), [b"\xff"], "{same}");
        }
        for text in [r#"[{"b64": "?"}]"#, "[{}]", r#"[{"b64": 1}]"#] {
            assert!(read(DataType::Bytes, text).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_in_float_form_are_integers() {
        let values: Vec<i64> = elements(&read(DataType::Int64, "[3.0, 1e3, -9223372036854775808]").unwrap());
        assert_eq!(values, [3, 1000, i64::MIN]);
    }

    proptest! {
        #[test]
        fn floats_read_as_they_were_printed(values in proptest::collection::vec(any::<f32>(), 0..20)) {
            let values: Vec<f32> = values.into_iter().filter(|v| v.is_finite()).collect();
            let read: Vec<f32> = elements(&read(DataType::Fp32, &format!("{values:?}")).unwrap());
            prop_assert_eq!(read, values);
        }

        #[test]
        fn never_panics(text in "[\\[\\],0-9.eE\\- ntrufalsNI\"]{0,40}", which in 0..14_usize) {
            let _ = read(DataType::ALL[which], &text);
        }
    }
}
