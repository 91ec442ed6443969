//! Turns a V2 request body into a V2 response, with the least possible parsing: it reads only the numbers after
//! `"data":[`, which must be separated by single commas.

use crate::{Input, Output, Session, Values};
use bytes::Bytes;

/// The text before the numbers of each output.
pub(crate) fn heads(outputs: &[Output]) -> Vec<String> {
    let head = |(nth, output): (usize, &Output)| {
        let before =
            if nth == 0 { r#"{"model_name":"probe","model_version":"1","outputs":["# } else { "]}," };
        let datatype = match output.datatype {
            ort::sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 => "INT64",
            _ => "FP32",
        };
        let (name, shape) = (output.name.to_str().expect("UTF-8"), &output.shape);
        format!(r#"{before}{{"name":"{name}","datatype":"{datatype}","shape":{shape:?},"data":["#)
    };
    outputs.iter().enumerate().map(head).collect()
}

pub(crate) fn answer(session: &Session, heads: &[String], body: &[u8]) -> Bytes {
    let start = memchr::memmem::find(body, b"\"data\":[").expect("data") + 8;
    let mut input = session.zeros();
    match &mut input {
        Input::F32(x) => fill(x, &body[start..], |text| fast_float2::parse_partial(text).expect("a number")),
        Input::I32(x) => fill(x, &body[start..], |text| {
            let (number, length) = integer(text);
            (i32::try_from(number).expect("an INT32"), length)
        }),
        Input::I64(x) => fill(x, &body[start..], integer),
    }
    let mut out = Vec::with_capacity(512);
    session.run(&mut input, |nth, values| {
        out.extend_from_slice(heads[nth].as_bytes());
        match values {
            Values::F32(values) => print(&mut out, values, |out, x| {
                out.extend_from_slice(zmij::Buffer::new().format_finite(x).as_bytes());
            }),
            Values::I64(values) => print(&mut out, values, |out, x| {
                out.extend_from_slice(itoa::Buffer::new().format(x).as_bytes());
            }),
        }
    });
    out.extend_from_slice(b"]}]}");
    out.into()
}

fn fill<T>(values: &mut [T], mut text: &[u8], read: impl Fn(&[u8]) -> (T, usize)) {
    for value in values {
        let (number, length) = read(text);
        *value = number;
        // Skips the comma, or the bracket after the last number.
        text = &text[length + 1..];
    }
}

fn integer(text: &[u8]) -> (i64, usize) {
    let minus = usize::from(text[0] == b'-');
    let length = minus + text[minus..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = text[minus..length].iter().fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0'));
    (if minus == 1 { -number } else { number }, length)
}

fn print<T: Copy>(out: &mut Vec<u8>, values: &[T], print: impl Fn(&mut Vec<u8>, T)) {
    for (nth, value) in values.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        print(out, *value);
    }
}
