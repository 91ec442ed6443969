//! Prints responses: numbers straight from the tensor, in the shortest form that parses to the same value.

use base64::engine::{Engine, general_purpose::STANDARD as BASE64};
use drisse_core::{
    DataType, DataView, Element, Strings, Tensor, TensorView, Value, ValueView, element_count,
};
use drisse_core::{Error, ErrorKind, Result};

/// The most empty lists that are printed: an empty tensor of shape `[n, 0]` prints as n of them.
const MAX_EMPTY_LISTS: i64 = 1 << 20;

/// The longest response that is printed: 1 GiB, estimated from the longest form of each element.
const MAX_ANSWER: usize = 1 << 30;

/// A JSON document being written.
///
/// ```
/// use drisse_wire::json::Writer;
///
/// let mut out = Writer::new();
/// out.list(["a", "\"b\""], |out, text| out.string(text));
/// assert_eq!(out.into_bytes(), br#"["a","\"b\""]"#);
/// ```
#[derive(Debug)]
pub struct Writer {
    out: Vec<u8>,
    not_finite: u64,
    bytes: BytesForm,
}

/// The form of the strings of tensors, which hold any bytes, while JSON's strings are UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BytesForm {
    /// A string; other bytes than UTF-8 are an error.
    Text,
    /// A string, or `{"b64": …}` for other bytes than UTF-8.
    TextOrBase64,
    /// `{"b64": …}`: TensorFlow Serving's form of bytes that are not text.
    Base64,
}

/// Whether a tensor is printed as one flat list, or as lists nested as its shape is.
#[derive(Clone, Copy)]
enum Layout<'a> {
    Flat,
    Nested(&'a [i64]),
}

impl Writer {
    /// Returns an empty document.
    #[expect(clippy::new_without_default, reason = "`new` is clearer")]
    pub fn new() -> Self {
        // Enough for the whole response of a small model.
        Self { out: Vec::with_capacity(512), not_finite: 0, bytes: BytesForm::Text }
    }

    /// Sets the form of the strings of tensors, for this document.
    #[must_use]
    pub fn with_bytes_as(self, bytes: BytesForm) -> Self {
        Self { bytes, ..self }
    }

    /// Returns the number of bytes written so far.
    pub fn written(&self) -> usize {
        self.out.len()
    }

    /// Returns the document.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Returns the document as text.
    pub(crate) fn into_text(self) -> String {
        // What is written is always UTF-8.
        String::from_utf8(self.out).unwrap_or_default()
    }

    /// Returns how many NaN and infinities were printed as `null`, because JSON has no such numbers.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Appends text that is JSON already.
    #[inline]
    pub fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    /// Appends a string, quoted and escaped.
    pub fn string(&mut self, text: impl AsRef<str>) {
        self.quoted(text.as_ref().as_bytes());
    }

    /// Appends a document as a string.
    pub(crate) fn document(&mut self, json: &Self) {
        self.quoted(&json.out);
    }

    /// Appends UTF-8 as a string.
    fn quoted(&mut self, bytes: &[u8]) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.out.push(b'"');
        let mut from = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.out.extend_from_slice(&bytes[from..at]);
            from = at + 1;
            match byte {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
                b'\n' => self.raw("\\n"),
                b'\r' => self.raw("\\r"),
                b'\t' => self.raw("\\t"),
                _ => {
                    self.raw("\\u00");
                    self.out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                }
            }
        }
        self.out.extend_from_slice(&bytes[from..]);
        self.out.push(b'"');
    }

    /// Appends an integer.
    pub fn integer(&mut self, value: impl itoa::Integer) {
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Appends a shape, such as `[1,64]`.
    pub fn shape(&mut self, shape: &[i64]) {
        self.list(shape.iter(), |writer, dim| writer.integer(*dim));
    }

    /// Appends a list; `one` writes the element of each item.
    pub fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut one: impl FnMut(&mut Self, T)) {
        self.out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            one(self, item);
        }
        self.out.push(b']');
    }

    /// Appends the elements in one flat list.
    ///
    /// # Errors
    /// [`NotAcceptable`](ErrorKind::NotAcceptable) if JSON cannot represent the elements: their datatype, or bytes that
    /// are not UTF-8; [`TooLarge`](ErrorKind::TooLarge) if the text would be too long.
    pub fn flat(&mut self, tensor: &TensorView<'_>) -> Result<()> {
        self.tensor(tensor, Layout::Flat)
    }

    /// Appends the elements in lists nested as the shape is; a scalar has no brackets.
    ///
    /// # Errors
    /// As for [`Self::flat`].
    pub fn nested(&mut self, tensor: &TensorView<'_>) -> Result<()> {
        self.tensor(tensor, Layout::Nested(tensor.shape))
    }

    /// Appends any value: sequences as lists, maps as objects, an empty optional as `null`.
    ///
    /// # Errors
    /// As for [`Self::flat`].
    pub fn value(&mut self, value: ValueView<'_>) -> Result<()> {
        match value {
            ValueView::Tensor(tensor) => self.nested(&tensor),
            ValueView::Other(Value::Tensor(tensor)) => self.nested(&tensor.view()),
            ValueView::Other(Value::Absent) => {
                self.raw("null");
                Ok(())
            }
            ValueView::Other(Value::Sequence(values)) => {
                let mut result = Ok(());
                self.list(values, |writer, value| {
                    if result.is_ok() {
                        result = writer.value(ValueView::Other(value));
                    }
                });
                result
            }
            ValueView::Other(Value::Map { keys, values }) => self.map(keys, values),
        }
    }

    /// Appends any value, with its strings in the form `bytes`.
    ///
    /// # Errors
    /// As for [`Self::flat`].
    pub fn value_as(&mut self, value: ValueView<'_>, bytes: BytesForm) -> Result<()> {
        let usual = std::mem::replace(&mut self.bytes, bytes);
        let written = self.value(value);
        self.bytes = usual;
        written
    }

    /// Appends a string of a tensor; it is UTF-8 if the form is [`BytesForm::Text`].
    fn element(&mut self, string: &[u8]) {
        let is_text = match self.bytes {
            BytesForm::Text => true,
            BytesForm::TextOrBase64 => std::str::from_utf8(string).is_ok(),
            BytesForm::Base64 => false,
        };
        if is_text {
            return self.quoted(string);
        }
        self.raw("{\"b64\":\"");
        self.raw(&BASE64.encode(string));
        self.raw("\"}");
    }

    fn map(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        // JSON's keys are strings, whatever their type in the model.
        let keys = printed(keys, BytesForm::Text)?;
        let values = printed(values, self.bytes)?;
        self.out.push(b'{');
        for (index, (key, value)) in keys.iter().zip(&values).enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            if key.starts_with(b"\"") {
                self.out.extend_from_slice(key);
            } else {
                self.quoted(key);
            }
            self.out.push(b':');
            self.not_finite += u64::from(value == b"null");
            self.out.extend_from_slice(value);
        }
        self.out.push(b'}');
        Ok(())
    }

    fn tensor(&mut self, tensor: &TensorView<'_>, layout: Layout<'_>) -> Result<()> {
        if let Layout::Nested(shape) = layout
            && shape.contains(&0)
            && shape
                .iter()
                .take_while(|&&dim| dim != 0)
                .try_fold(1, |n: i64, &dim| n.checked_mul(dim))
                .is_none_or(|n| n > MAX_EMPTY_LISTS)
        {
            let message = format!("an empty output of shape {shape:?} needs too many empty lists in JSON");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let elements = element_count(tensor.shape).unwrap_or(usize::MAX);
        let estimate = self.out.len().saturating_add(elements.saturating_mul(widest(tensor, self.bytes)));
        if estimate > MAX_ANSWER {
            let (datatype, shape) = (tensor.datatype, tensor.shape);
            let message = format!("an output of {datatype} {shape:?} is too large for JSON");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let bytes = match tensor.data {
            DataView::Strings(strings) => {
                if self.bytes == BytesForm::Text {
                    check_text(strings)?;
                }
                let mut strings = strings.iter();
                let count = element_count(tensor.shape).unwrap_or(0);
                self.arrange(layout, count, &mut |writer| writer.element(strings.next().unwrap_or_default()));
                return Ok(());
            }
            DataView::Raw(bytes) => bytes,
        };
        match tensor.datatype {
            DataType::Bool => {
                self.numbers::<u8>(bytes, layout, |w, v| w.raw(if v != 0 { "true" } else { "false" }))
            }
            DataType::Uint8 => self.numbers::<u8>(bytes, layout, Self::integer),
            DataType::Uint16 => self.numbers::<u16>(bytes, layout, Self::integer),
            DataType::Uint32 => self.numbers::<u32>(bytes, layout, Self::integer),
            DataType::Uint64 => self.numbers::<u64>(bytes, layout, Self::integer),
            DataType::Int8 => self.numbers::<i8>(bytes, layout, Self::integer),
            DataType::Int16 => self.numbers::<i16>(bytes, layout, Self::integer),
            DataType::Int32 => self.numbers::<i32>(bytes, layout, Self::integer),
            DataType::Int64 => self.numbers::<i64>(bytes, layout, Self::integer),
            DataType::Fp16 => self.numbers::<half::f16>(bytes, layout, |w, v| w.float(v.to_f32())),
            DataType::Bf16 => self.numbers::<half::bf16>(bytes, layout, |w, v| w.float(v.to_f32())),
            DataType::Fp32 => self.numbers::<f32>(bytes, layout, Self::float),
            DataType::Fp64 => self.numbers::<f64>(bytes, layout, Self::double),
            other => {
                let message = format!("JSON cannot represent {other} elements");
                return Err(Error::new(ErrorKind::NotAcceptable, message));
            }
        }
        Ok(())
    }

    fn numbers<T: Element>(&mut self, bytes: &[u8], layout: Layout<'_>, one: impl Fn(&mut Self, T)) {
        // Engines align their tensors; a tensor that is not aligned is copied once.
        let copy;
        let numbers: &[T] = match bytemuck::try_cast_slice(bytes) {
            Ok(numbers) => numbers,
            Err(_) => {
                copy = drisse_core::Buffer::copy_from(bytes);
                copy.elements()
            }
        };
        let mut numbers_left = numbers.iter();
        self.arrange(layout, numbers.len(), &mut |writer| {
            if let Some(&number) = numbers_left.next() {
                one(writer, number);
            }
        });
    }

    /// Calls `one` per element, and writes the brackets and commas of the layout around them.
    fn arrange(&mut self, layout: Layout<'_>, count: usize, one: &mut impl FnMut(&mut Self)) {
        match layout {
            Layout::Flat => self.list(0..count, |writer, _| one(writer)),
            Layout::Nested([]) => one(self),
            Layout::Nested([last]) => self.list(0..*last, |writer, _| one(writer)),
            Layout::Nested([first, rest @ ..]) => {
                self.list(0..*first, |writer, _| writer.arrange(Layout::Nested(rest), count, one));
            }
        }
    }

    #[inline]
    fn float(&mut self, value: f32) {
        if value.is_finite() {
            self.print_float(zmij::Buffer::new().format_finite(value));
        } else {
            self.null();
        }
    }

    #[inline]
    fn double(&mut self, value: f64) {
        if value.is_finite() {
            self.print_float(zmij::Buffer::new().format_finite(value));
        } else {
            self.null();
        }
    }

    #[inline]
    fn print_float(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn null(&mut self) {
        self.not_finite += 1;
        self.raw("null");
    }
}

/// Returns the length in bytes of a tensor's longest possible element with its comma; for strings, the average.
fn widest(tensor: &TensorView<'_>, form: BytesForm) -> usize {
    match (tensor.data, tensor.datatype) {
        (DataView::Strings(strings), _) => {
            let average = strings.byte_len() / strings.len().max(1);
            if form == BytesForm::Text { 3 + average } else { 14 + average / 3 * 4 }
        }
        (_, DataType::Bool | DataType::Int8 | DataType::Uint8) => 6,
        (_, DataType::Int16 | DataType::Uint16) => 7,
        (_, DataType::Int32 | DataType::Uint32 | DataType::Fp16 | DataType::Bf16) => 12,
        (_, DataType::Fp32) => 16,
        _ => 25,
    }
}

/// Refuses strings that are not UTF-8.
fn check_text(strings: &Strings) -> Result<()> {
    match strings.iter().position(|string| std::str::from_utf8(string).is_err()) {
        None => Ok(()),
        Some(nth) => {
            let message = format!("JSON cannot represent its element {nth}, whose bytes are not UTF-8");
            Err(Error::new(ErrorKind::NotAcceptable, message))
        }
    }
}

/// Prints each element of a map's keys or values on its own.
fn printed(tensor: &Tensor, form: BytesForm) -> Result<Vec<Vec<u8>>> {
    let mut writer = Writer::new().with_bytes_as(form);
    match tensor.view().data {
        DataView::Strings(strings) => {
            if form == BytesForm::Text {
                check_text(strings)?;
            }
            let one = |string| {
                writer.out.clear();
                writer.element(string);
                writer.out.clone()
            };
            Ok(strings.iter().map(one).collect())
        }
        DataView::Raw(_) => {
            writer.flat(&tensor.view())?;
            let inner = &writer.out[1..writer.out.len() - 1];
            Ok(inner
                .split(|&byte| byte == b',')
                .filter(|part| !part.is_empty())
                .map(<[u8]>::to_vec)
                .collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_core::{Buffer, Data, Shape, Strings};

    fn tensor<T: Element>(datatype: DataType, shape: &[i64], values: &[T]) -> Tensor {
        let mut buffer = Buffer::new();
        values.iter().for_each(|&value| buffer.push(value));
        Tensor { datatype, shape: Shape::from(shape), data: Data::Raw(buffer) }
    }

    fn nested(tensor: &Tensor) -> String {
        let mut writer = Writer::new();
        writer.nested(&tensor.view()).unwrap();
        String::from_utf8(writer.into_bytes()).unwrap()
    }

    #[test]
    fn lists_nest_as_the_shape_does() {
        assert_eq!(nested(&tensor(DataType::Int64, &[2, 2], &[1_i64, -2, 3, 4])), "[[1,-2],[3,4]]");
        assert_eq!(nested(&tensor(DataType::Int64, &[2, 0], &[] as &[i64])), "[[],[]]");
        assert_eq!(nested(&tensor(DataType::Bool, &[], &[1_u8])), "true");
    }

    #[test]
    fn floats_print_in_the_shortest_form_and_what_is_not_finite_as_null() {
        let mut writer = Writer::new();
        let values = tensor(DataType::Fp32, &[4], &[0.1_f32, f32::NAN, 1e30, f32::NEG_INFINITY]);
        writer.nested(&values.view()).unwrap();
        assert_eq!(writer.not_finite(), 2);
        assert_eq!(writer.into_bytes(), b"[0.1,null,1e+30,null]");
    }

    #[test]
    fn a_map_is_an_object_whose_keys_are_strings() {
        let probabilities = tensor(DataType::Fp32, &[2], &[0.25_f32, 0.75]);
        let by_number =
            Value::Map { keys: tensor(DataType::Int64, &[2], &[0_i64, 7]), values: probabilities.clone() };
        let names: Strings = ["a", "b\""].into_iter().collect();
        let names = Tensor {
            datatype: DataType::Bytes,
            shape: Shape::from(&[2_i64][..]),
            data: Data::Strings(names),
        };
        let by_name = Value::Map { keys: names, values: probabilities };
        let mut writer = Writer::new();
        writer.value(ValueView::Other(&Value::Sequence(vec![by_number, by_name]))).unwrap();
        let text = String::from_utf8(writer.into_bytes()).unwrap();
        assert_eq!(text, r#"[{"0":0.25,"7":0.75},{"a":0.25,"b\"":0.75}]"#);
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_an_error_or_base64_and_never_replaced() {
        let strings: Strings = [&b"a"[..], b"\xff"].into_iter().collect();
        let tensor = Tensor {
            datatype: DataType::Bytes,
            shape: Shape::from_slice(&[2]),
            data: Data::Strings(strings),
        };
        let error = Writer::new().nested(&tensor.view()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAcceptable);
        assert!(error.message().contains("element 1, whose bytes are not UTF-8"), "{error}");
        for (form, json) in [
            (BytesForm::TextOrBase64, r#"["a",{"b64":"/w=="}]"#),
            (BytesForm::Base64, r#"[{"b64":"YQ=="},{"b64":"/w=="}]"#),
        ] {
            let mut writer = Writer::new().with_bytes_as(form);
            writer.flat(&tensor.view()).unwrap();
            assert_eq!(writer.into_text(), json);
        }
        let ones = self::tensor(DataType::Int64, &[2], &[1_i64, 2]);
        let by_bytes = Value::Map { keys: tensor.clone(), values: ones };
        let mut writer = Writer::new().with_bytes_as(BytesForm::TextOrBase64);
        assert!(writer.value(ValueView::Other(&by_bytes)).is_err(), "an object's keys are strings");
    }
}
