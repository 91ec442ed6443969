//! The tensor values that the cases use for each datatype, and decoding of tensors from a response's bytes.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A datatype of the protocol, with four values in each of its forms (`cases/datatypes.toml`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Datatype {
    /// The values in JSON.
    data: String,
    /// The values as bytes, in hexadecimal.
    hex: String,
    /// The values as typed contents of a gRPC message; `None` if the datatype has no field there.
    contents: Option<String>,
    /// JSON with a value of another type.
    wrong: String,
    /// The datatype's number in ONNX.
    pub(crate) onnx: i32,
}

static ALL: LazyLock<BTreeMap<String, Datatype>> = LazyLock::new(|| {
    toml::from_str(include_str!("../cases/datatypes.toml")).expect("the datatypes can be read")
});

impl Datatype {
    /// Returns all datatypes by name.
    pub(crate) fn all() -> &'static BTreeMap<String, Self> {
        &ALL
    }

    /// Returns the datatype with this name.
    ///
    /// # Panics
    /// Panics if a case names an unknown datatype, which the tests rule out.
    pub(crate) fn named(name: &str) -> &'static Self {
        ALL.get(name).unwrap_or_else(|| panic!("unknown datatype `{name}`"))
    }

    /// Returns the words that cases may use for the datatype, such as `<data>`.
    pub(crate) fn words(&'static self) -> Vec<(String, String)> {
        let bytes = hex(&self.hex).unwrap_or_default();
        let name = ALL.iter().find(|(_, other)| std::ptr::eq(*other, self)).map_or("", |(name, _)| name);
        let mut words = vec![
            ("model", format!("identity-{}", name.to_lowercase())),
            ("data", self.data.clone()),
            ("nested", format!("[{}, {}]", row(&self.data, 0), row(&self.data, 1))),
            ("row 0", row(&self.data, 0)),
            ("row 1", row(&self.data, 1)),
            ("hex", self.hex.clone()),
            ("size", bytes.len().to_string()),
            ("base64", BASE64_STANDARD.encode(bytes)),
            ("wrong", self.wrong.clone()),
        ];
        let field = self.contents.as_ref().and_then(|contents| contents.split('"').nth(1));
        words.extend(field.map(|field| ("field", field.to_owned())));
        words.extend(self.contents.clone().map(|contents| ("contents", contents)));
        words.into_iter().map(|(word, value)| (word.to_owned(), value)).collect()
    }
}

/// Returns one row of the four values, as two rows of two.
fn row(data: &str, nth: usize) -> String {
    let data: Vec<Value> = serde_json::from_str(data).unwrap_or_default();
    Value::from(data.chunks(2).nth(nth).unwrap_or_default()).to_string()
}

/// Parses hexadecimal digits; ignores white space.
pub(crate) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| Some(c.to_digit(16)? as u8))
        .collect::<Option<_>>()?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// Decodes a tensor's values from its bytes: little-endian, row-major; each `BYTES` element follows its length in four
/// bytes.
pub(crate) fn values(datatype: &str, bytes: &[u8]) -> Result<Value, String> {
    fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> Value) -> Result<Value, String> {
        let (whole, rest) = bytes.as_chunks::<N>();
        if !rest.is_empty() {
            return Err(format!("{} bytes are not a multiple of the element size {N}", bytes.len()));
        }
        Ok(whole.iter().map(|element| value(*element)).collect())
    }
    match datatype {
        "BOOL" => each(bytes, |[byte]| if byte > 1 { json!(byte) } else { json!(byte == 1) }),
        "UINT8" => each(bytes, |element| json!(u8::from_le_bytes(element))),
        "UINT16" => each(bytes, |element| json!(u16::from_le_bytes(element))),
        "UINT32" => each(bytes, |element| json!(u32::from_le_bytes(element))),
        "UINT64" => each(bytes, |element| json!(u64::from_le_bytes(element))),
        "INT8" => each(bytes, |element| json!(i8::from_le_bytes(element))),
        "INT16" => each(bytes, |element| json!(i16::from_le_bytes(element))),
        "INT32" => each(bytes, |element| json!(i32::from_le_bytes(element))),
        "INT64" => each(bytes, |element| json!(i64::from_le_bytes(element))),
        "FP16" => each(bytes, |element| json!(f16::from_le_bytes(element).to_f64())),
        "BF16" => each(bytes, |element| json!(bf16::from_le_bytes(element).to_f64())),
        "FP32" => each(bytes, |element| json!(f64::from(f32::from_le_bytes(element)))),
        "FP64" => each(bytes, |element| json!(f64::from_le_bytes(element))),
        "BYTES" => strings(bytes),
        other => Err(format!("`{other}` is not a datatype")),
    }
}

fn strings(mut bytes: &[u8]) -> Result<Value, String> {
    let mut values = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let (value, rest) =
            rest.split_at_checked(length).ok_or("an element of BYTES is longer than the rest of the body")?;
        values.push(json!(String::from_utf8_lossy(value)));
        bytes = rest;
    }
    if bytes.is_empty() { Ok(Value::Array(values)) } else { Err("BYTES end within a length".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_each_datatype_are_the_same_in_all_forms() {
        for (name, datatype) in Datatype::all() {
            let data: Value = serde_json::from_str(&datatype.data).unwrap();
            assert_eq!(data.as_array().unwrap().len(), 4, "{name}");
            let read = values(name, &hex(&datatype.hex).unwrap()).unwrap();
            assert!(crate::expect::same(&data, &read), "{name}: {data} {read}");
        }
    }

    #[test]
    fn bytes_that_are_not_a_tensor_are_refused() {
        assert!(values("INT32", &[1, 2, 3]).is_err());
        assert!(values("BYTES", &[1, 0, 0]).is_err());
        assert!(values("BYTES", &[9, 0, 0, 0, 1]).is_err());
        assert!(values("FP8", &[]).is_err());
    }
}
