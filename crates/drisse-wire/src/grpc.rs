//! gRPC: messages, how they are framed in HTTP/2, and how an error is told.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

mod files;
mod infer;
mod models;
mod peek;
pub mod predict;
mod weight;

use bytes::{Buf, Bytes, BytesMut};
use drisse_core::{Error, ErrorKind, Result};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use weight::Nested;

pub use files::Files;
pub use infer::{AnswerSink, decode};
pub use models::{config, metadata, statistics};
pub use peek::{Peeked, peek};

/// Messages, made from `proto/*.proto` by `xtask/tests/protos.rs`.
#[expect(missing_docs, reason = "generated")]
pub mod inference {
    include!("grpc/inference.rs");
}

/// The same.
#[expect(missing_docs, reason = "generated")]
pub mod health {
    include!("grpc/grpc.health.v1.rs");
}

/// The same.
#[expect(missing_docs, reason = "generated")]
pub mod reflection {
    include!("grpc/grpc.reflection.v1.rs");
}

/// The same.
#[expect(missing_docs, reason = "generated")]
pub mod tensorflow {
    include!("grpc/tensorflow.rs");

    #[expect(missing_docs, reason = "generated")]
    pub mod serving {
        include!("grpc/tensorflow.serving.rs");
    }
}

/// All of `proto/*.proto`, as a serialised `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("grpc/descriptors.bin");

/// Bytes before a message: a flag, and its length in four bytes.
pub const HEAD: usize = 5;

/// The Open Inference Protocol's service.
pub const INFERENCE: &str = "inference.GRPCInferenceService";

/// TensorFlow Serving's services.
pub const PREDICTION: &str = "tensorflow.serving.PredictionService";
/// The same.
pub const MODELS: &str = "tensorflow.serving.ModelService";

/// gRPC's own health checks.
pub const HEALTH: &str = "grpc.health.v1.Health";

/// Whether a request is a call of gRPC's.
pub fn is_call<B>(head: &http::Request<B>) -> bool {
    let content_type = head.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let http2 = head.version() == http::Version::HTTP_2 && head.method() == http::Method::POST;
    http2 && content_type.starts_with(b"application/grpc")
}

/// A message as it stands in a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Whether it is compressed, as `grpc-encoding` says.
    pub compressed: bool,
    /// The message.
    pub message: Bytes,
}

/// Takes the first frame off what has come of a body, of messages of at most `limit` bytes; `None` where it is not
/// whole yet.
pub fn take_frame(body: &mut BytesMut, limit: usize) -> Result<Option<Frame>> {
    let Some(&[flag, a, b, c, d]) = body.first_chunk::<HEAD>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if flag > 1 {
        return Err(Error::invalid(format!("a gRPC message begins with 0 or 1, not with {flag}")));
    }
    if length > limit {
        let message = format!("a message of {length} bytes is over the limit of {limit} bytes");
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    if body.len() < HEAD + length {
        return Ok(None);
    }
    body.advance(HEAD);
    Ok(Some(Frame { compressed: flag == 1, message: body.split_to(length).freeze() }))
}

/// The only frame of a body that is here whole.
pub fn only_frame(body: Bytes, limit: usize) -> Result<Frame> {
    let mut body = BytesMut::from(body);
    let frame = take_frame(&mut body, limit)?;
    match frame {
        Some(frame) if body.is_empty() => Ok(frame),
        Some(_) => Err(Error::invalid("there is more than one message in a request that has one")),
        None => Err(Error::invalid("the body ends before its message does")),
    }
}

/// A message in its frame.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(HEAD + length);
    body.extend_from_slice(&[0]);
    body.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // The room is there.
    let _ = message.encode(&mut body);
    body.freeze()
}

/// A message that is compressed, in its frame.
pub fn packed_frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[1], &length[..], message].concat().into()
}

/// Reads a message; refuses one that would take far more memory than its bytes do.
pub fn parse<M: Message + Default>(message: Bytes) -> Result<M> {
    checked(message, Nested::V2)
}

/// The same of TensorFlow Serving's.
pub fn parse_predict<M: Message + Default>(message: Bytes) -> Result<M> {
    checked(message, Nested::PREDICT)
}

fn checked<M: Message + Default>(message: Bytes, nested: Nested) -> Result<M> {
    weight::check(&message, nested)?;
    M::decode(message).map_err(|error| Error::invalid(format!("the message cannot be read: {error}")))
}

/// `grpc-status: 0`, the trailer of an answer.
pub fn ok() -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))])
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The trailers that tell of an error.
pub fn trailers(error: &Error) -> HeaderMap {
    let code = HeaderValue::from(crate::grpc_code(error.kind()));
    let mut trailers = HeaderMap::from_iter([(STATUS, code)]);
    if let Ok(message) = HeaderValue::try_from(percent_encoded(error.message())) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// Everything but the printable part of ASCII, and `%` itself, as `%XX`.
fn percent_encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The time a client gives an answer: digits and a unit.
pub fn timeout(header: &HeaderValue) -> Result<std::time::Duration> {
    let refused = || Error::invalid("grpc-timeout is up to eight digits and a unit: H, M, S, m, u or n");
    let text = header.to_str().map_err(|_| refused())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(refused)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    let number: u64 = digits.parse().map_err(|_| refused())?;
    Ok(match unit {
        "H" => std::time::Duration::from_secs(number * 3600),
        "M" => std::time::Duration::from_secs(number * 60),
        "S" => std::time::Duration::from_secs(number),
        "m" => std::time::Duration::from_millis(number),
        "u" => std::time::Duration::from_micros(number),
        "n" => std::time::Duration::from_nanos(number),
        _ => return Err(refused()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_frame_is_taken_once_it_is_whole() {
        let whole = frame(&inference::ServerLiveResponse { live: true });
        assert_eq!(&*whole, b"\0\0\0\0\x02\x08\x01");
        let mut body = BytesMut::from(&whole[..6]);
        assert_eq!(take_frame(&mut body, 100).unwrap(), None);
        body.extend_from_slice(&whole[6..]);
        let message = Bytes::from_static(b"\x08\x01");
        assert_eq!(take_frame(&mut body, 100).unwrap(), Some(Frame { compressed: false, message }));
        assert!(body.is_empty());
        for (bytes, why) in
            [(&b"\x02\0\0\0\0"[..], "begins with 0 or 1"), (b"\0\xff\0\0\0", "over the limit")]
        {
            let error = take_frame(&mut BytesMut::from(bytes), 100).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
        assert!(only_frame([whole.clone(), whole].concat().into(), 100).is_err());
    }

    #[test]
    fn an_error_is_a_code_and_a_message_that_fits_a_header() {
        let trailers = trailers(&Error::invalid("ü 100 %\n"));
        assert_eq!(trailers["grpc-status"], "3");
        assert_eq!(trailers["grpc-message"], "%C3%BC 100 %25%0A");
    }

    #[test]
    fn timeouts_have_a_unit() {
        let read = |text| timeout(&HeaderValue::from_static(text)).ok();
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "1", "m", "-1S", "1s", "123456789S", "1.5S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut body = BytesMut::from(&*bytes);
            while let Ok(Some(frame)) = take_frame(&mut body, 1 << 20) {
                let _ = parse::<inference::ModelInferRequest>(frame.message);
            }
        }
    }
}
