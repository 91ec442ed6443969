//! gRPC: messages, their framing in HTTP/2, and how errors are sent.
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

/// Messages of the Open Inference Protocol. `xtask/tests/protos.rs` generates these modules from `proto/*.proto`.
#[expect(missing_docs, reason = "generated")]
pub mod inference {
    include!("grpc/inference.rs");
}

/// Messages of gRPC's health checks.
#[expect(missing_docs, reason = "generated")]
pub mod health {
    include!("grpc/grpc.health.v1.rs");
}

/// Messages of gRPC's server reflection.
#[expect(missing_docs, reason = "generated")]
pub mod reflection {
    include!("grpc/grpc.reflection.v1.rs");
}

/// Messages of TensorFlow, and of TensorFlow Serving in [`serving`](tensorflow::serving).
#[expect(missing_docs, reason = "generated")]
pub mod tensorflow {
    include!("grpc/tensorflow.rs");

    #[expect(missing_docs, reason = "generated")]
    pub mod serving {
        include!("grpc/tensorflow.serving.rs");
    }
}

/// All of `proto/*.proto` as a serialized `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("grpc/descriptors.bin");

/// The length in bytes of a message's header: the compression flag, and the message's length in four bytes.
pub const HEAD: usize = 5;

/// The Open Inference Protocol's service.
pub const INFERENCE: &str = "inference.GRPCInferenceService";

/// TensorFlow Serving's prediction service.
pub const PREDICTION: &str = "tensorflow.serving.PredictionService";
/// TensorFlow Serving's model service.
pub const MODELS: &str = "tensorflow.serving.ModelService";

/// gRPC's health service.
pub const HEALTH: &str = "grpc.health.v1.Health";

/// Whether a request is a gRPC call: an HTTP/2 `POST` with a gRPC content type.
pub fn is_call<B>(head: &http::Request<B>) -> bool {
    let content_type = head.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let http2 = head.version() == http::Version::HTTP_2 && head.method() == http::Method::POST;
    http2 && content_type.starts_with(b"application/grpc")
}

/// A message as it is sent in a body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Whether the message is compressed with the coding that the header `grpc-encoding` names.
    pub compressed: bool,
    /// The message's bytes.
    pub message: Bytes,
}

/// Removes the first frame from the received part of a body. `None` if the frame is not complete yet.
///
/// # Errors
/// Returns an error if the frame's flag is invalid, or if its message is longer than `limit` bytes.
///
/// ```
/// use drisse_wire::grpc::{frame, inference::ServerLiveResponse, take_frame};
///
/// let mut body = frame(&ServerLiveResponse { live: true }).into();
/// let frame = take_frame(&mut body, 1024)?.expect("a complete frame");
/// assert_eq!(&frame.message[..], [8, 1]);
/// # Ok::<(), drisse_core::Error>(())
/// ```
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

/// Returns the only frame of a complete body.
///
/// # Errors
/// Returns an error if the body does not hold exactly one frame, or if [`take_frame`] refuses it.
pub fn only_frame(body: Bytes, limit: usize) -> Result<Frame> {
    let mut body = BytesMut::from(body);
    let frame = take_frame(&mut body, limit)?;
    match frame {
        Some(frame) if body.is_empty() => Ok(frame),
        Some(_) => Err(Error::invalid("the request has more than one message, but this method takes one")),
        None => Err(Error::invalid("the body ends before its message does")),
    }
}

/// Returns the frame of a message.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(HEAD + length);
    body.extend_from_slice(&[0]);
    body.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // Cannot fail: the buffer has the message's length.
    let _ = message.encode(&mut body);
    body.freeze()
}

/// Returns the frame of a message that is already compressed.
pub fn packed_frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[1], &length[..], message].concat().into()
}

/// Decodes a message of the Open Inference Protocol.
///
/// # Errors
/// Returns an error if the bytes are not such a message, or if it has so many fields that decoding it would take far
/// more memory than its bytes do.
pub fn parse<M: Message + Default>(message: Bytes) -> Result<M> {
    checked(message, Nested::V2)
}

/// Decodes a message of TensorFlow Serving.
///
/// # Errors
/// As for [`parse`].
pub fn parse_predict<M: Message + Default>(message: Bytes) -> Result<M> {
    checked(message, Nested::PREDICT)
}

fn checked<M: Message + Default>(message: Bytes, nested: Nested) -> Result<M> {
    weight::check(&message, nested)?;
    M::decode(message).map_err(|error| Error::invalid(format!("the message cannot be read: {error}")))
}

/// Returns the trailer of a call that succeeded, `grpc-status: 0`.
pub fn ok() -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))])
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Returns the trailers of a call that failed: `grpc-status` and `grpc-message`.
pub fn trailers(error: &Error) -> HeaderMap {
    let code = HeaderValue::from(crate::grpc_code(error.kind()));
    let mut trailers = HeaderMap::from_iter([(STATUS, code)]);
    if let Ok(message) = HeaderValue::try_from(percent_encoded(error.message())) {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// Writes every byte that is not printable ASCII, and `%` itself, as `%XX`.
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

/// Parses the header `grpc-timeout`: up to eight digits and a unit.
///
/// # Errors
/// Returns an error if the header has another form.
pub fn timeout(header: &HeaderValue) -> Result<std::time::Duration> {
    let refused = || Error::invalid("grpc-timeout must be up to eight digits and a unit: H, M, S, m, u or n");
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
