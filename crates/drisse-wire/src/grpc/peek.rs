//! Reads the name of the model that a call is for from the beginning of its first message.

use super::HEAD;
use flate2::read::{GzDecoder, ZlibDecoder};
use std::io::Read;

/// The most bytes that are decompressed of a compressed message: a few microseconds of work.
const UNPACKED: u64 = 4 << 10;

/// What the beginning of a body says about the model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peeked {
    /// The model's name; empty if the message has none.
    Model(String),
    /// More of the message is needed.
    More,
    /// The bytes are not a message that can be read.
    Unknown,
}

/// Returns the number of the field that names the model in the requests of `method`; `None` if they name no model.
fn field(method: &str) -> Option<u64> {
    match method {
        "ModelInfer" | "ModelStreamInfer" | "ModelReady" | "ModelMetadata" | "ModelConfig"
        | "ModelStatistics" => Some(1),
        "RepositoryModelLoad" | "RepositoryModelUnload" => Some(2),
        // TensorFlow Serving's `model_spec`, whose first field is the name.
        "Predict" | "GetModelMetadata" | "GetModelStatus" => Some(1),
        _ => None,
    }
}

/// Reads the model's name from `body`, the first bytes of a call of `method` (of the Open Inference Protocol or of
/// TensorFlow Serving).
///
/// ```
/// use drisse_wire::grpc::{Peeked, frame, inference::ModelReadyRequest, peek};
///
/// let request = ModelReadyRequest { name: "digits".to_owned(), ..Default::default() };
/// let body = frame(&request);
/// assert_eq!(peek("ModelReady", &body), Peeked::Model("digits".to_owned()));
/// assert_eq!(peek("ModelReady", &body[..6]), Peeked::More);
/// ```
pub fn peek(method: &str, body: &[u8]) -> Peeked {
    let Some(wanted) = field(method) else { return Peeked::Model(String::new()) };
    let Some((&[flag, a, b, c, d], rest)) = body.split_first_chunk::<HEAD>() else { return Peeked::More };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let received = &rest[..length.min(rest.len())];
    let plain;
    let (mut message, mut left) = match flag {
        0 => (received, length),
        // The length of the decompressed message is unknown.
        1 => match decompressed(received) {
            Some(beginning) => {
                plain = beginning;
                (&*plain, usize::MAX)
            }
            None => return Peeked::Unknown,
        },
        _ => return Peeked::Unknown,
    };
    while left > 0 {
        let before = message.len();
        let Some(key) = varint(&mut message) else { return cut(before) };
        let skip = match key & 7 {
            0 => match varint(&mut message) {
                Some(_) => 0,
                None => return cut(before),
            },
            1 => 8,
            5 => 4,
            2 => match varint(&mut message) {
                Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
                None => return cut(before),
            },
            _ => return Peeked::Unknown,
        };
        let head = before - message.len();
        if head.saturating_add(skip) > left {
            return Peeked::Unknown;
        }
        let Some((value, behind)) = message.split_at_checked(skip) else { return Peeked::More };
        if key >> 3 == wanted && key & 7 == 2 {
            let name = if is_spec(method) { name_in_spec(value) } else { Some(value) };
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            return name.map_or(Peeked::Unknown, |name| Peeked::Model(name.to_owned()));
        }
        left -= head + skip;
        message = behind;
    }
    Peeked::Model(String::new())
}

/// Decompresses the received part of a message, up to [`UNPACKED`] bytes; `None` if it is neither gzip nor zlib.
fn decompressed(packed: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    // A partial message ends in an error, after all bytes that can be decompressed.
    let _ = match packed {
        [] | [0x1f | 0x78] => return Some(plain),
        [0x1f, 0x8b, ..] => GzDecoder::new(packed).take(UNPACKED).read_to_end(&mut plain),
        [0x78, ..] => ZlibDecoder::new(packed).take(UNPACKED).read_to_end(&mut plain),
        _ => return None,
    };
    Some(plain)
}

fn is_spec(method: &str) -> bool {
    matches!(method, "Predict" | "GetModelMetadata" | "GetModelStatus")
}

/// Returns the name in a `model_spec`; `None` if the name is not the first field.
fn name_in_spec(mut spec: &[u8]) -> Option<&[u8]> {
    let key = varint(&mut spec)?;
    let length = usize::try_from(varint(&mut spec)?).ok()?;
    (key == 1 << 3 | 2).then(|| spec.get(..length))?
}

/// Handles a varint that does not end within the last `bytes` bytes: more may follow, unless that is longer than any
/// varint.
fn cut(bytes: usize) -> Peeked {
    if bytes < 20 { Peeked::More } else { Peeked::Unknown }
}

/// Removes a varint from the front of `bytes`; `None` if it does not end there or is longer than 64 bits.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::frame;
    use crate::grpc::inference::{ModelInferRequest, RepositoryModelLoadRequest};
    use crate::grpc::tensorflow::serving::{ModelSpec, PredictRequest};
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn a_call_s_model_is_known_once_its_name_has_come() {
        let request = ModelInferRequest {
            model_name: "digits".to_owned(),
            raw_input_contents: vec![vec![7; 300].into()],
            ..ModelInferRequest::default()
        };
        let body = frame(&request);
        let name = Peeked::Model("digits".to_owned());
        for cut in 0..body.len() {
            let peeked = peek("ModelInfer", &body[..cut]);
            assert!(peeked == if cut < HEAD + 8 { Peeked::More } else { name.clone() }, "{cut}: {peeked:?}");
        }
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(&body[HEAD..]).unwrap();
        let packed = crate::grpc::packed_frame(&packer.finish().unwrap());
        for cut in 0..packed.len() {
            let peeked = peek("ModelInfer", &packed[..cut]);
            assert!(peeked == Peeked::More || peeked == name, "{cut}: {peeked:?}");
        }
        assert_eq!(peek("ModelInfer", &packed), name);
        let load = RepositoryModelLoadRequest {
            model_name: "m".to_owned(),
            ..RepositoryModelLoadRequest::default()
        };
        assert_eq!(peek("RepositoryModelLoad", &frame(&load)), Peeked::Model("m".to_owned()));
        let model_spec = Some(ModelSpec { name: "m".to_owned(), ..ModelSpec::default() });
        let predict = PredictRequest { model_spec, ..PredictRequest::default() };
        assert_eq!(peek("Predict", &frame(&predict)), Peeked::Model("m".to_owned()));
        assert_eq!(peek("ModelStatistics", b"\0\0\0\0\0"), Peeked::Model(String::new()));
        assert_eq!(peek("ModelInfer", b"\x01\0\0\0\x01y"), Peeked::Unknown);
        assert_eq!(peek("ModelInfer", b"\0\0\0\0\x02\x0a\x7f"), Peeked::Unknown, "longer than its message");
        assert_eq!(peek("ServerLive", b""), Peeked::Model(String::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = peek("ModelInfer", &[&[0, 0, 0, 0, 60], &*bytes].concat());
            let _ = peek("ModelInfer", &bytes);
            let _ = peek("ModelInfer", &[&[1, 0, 0, 0, 60, 0x78, 0x9c], &*bytes].concat());
            let _ = peek("Predict", &[&[0, 0, 0, 0, 60], &*bytes].concat());
        }
    }
}
