//! The one table of errors: each kind's HTTP and gRPC status, its headers, and each protocol's body.

use crate::json::Writer;
use drisse_core::{Error, ErrorKind};
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

/// The HTTP status of a kind.
pub fn http_status(kind: ErrorKind) -> u16 {
    row(kind).0
}

/// The gRPC code of a kind (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
pub fn grpc_code(kind: ErrorKind) -> i32 {
    row(kind).1
}

fn row(kind: ErrorKind) -> (u16, i32) {
    match kind {
        ErrorKind::InvalidInput => (400, 3),
        ErrorKind::Rejected => (400, 3),
        ErrorKind::Unauthenticated => (401, 16),
        ErrorKind::NotFound => (404, 5),
        ErrorKind::MethodNotAllowed => (405, 12),
        ErrorKind::RequestTimeout => (408, 4),
        ErrorKind::TooLarge => (413, 8),
        ErrorKind::UnsupportedMediaType => (415, 3),
        ErrorKind::HeadersTooLarge => (431, 3),
        ErrorKind::Cancelled => (499, 1),
        ErrorKind::Internal => (500, 13),
        ErrorKind::Overloaded => (503, 14),
        ErrorKind::Unavailable => (503, 14),
        ErrorKind::DeadlineExceeded => (504, 4),
    }
}

/// Sets the headers an error's kind calls for: what a 401 asks for, when to come again after a 503.
pub fn error_headers(error: &Error, headers: &mut HeaderMap) {
    match error.kind() {
        ErrorKind::Unauthenticated => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        ErrorKind::Overloaded | ErrorKind::Unavailable => {
            let wait = error.retry_after_hint().unwrap_or_default();
            headers.insert(RETRY_AFTER, HeaderValue::from((wait.as_secs_f64().ceil() as u64).max(1)));
        }
        _ => {}
    }
}

/// The key an error stands under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorShape {
    /// `{"message": …}`: `/score`, as Azure ML's front end answers.
    Message,
    /// `{"error": …}`: `/v1` and `/v2`, as the Open Inference Protocol answers.
    Error,
}

/// The JSON body that tells a client of an error.
pub fn error_body(shape: ErrorShape, error: &Error) -> Vec<u8> {
    let mut body = Writer::new();
    body.raw(match shape {
        ErrorShape::Message => "{\"message\":",
        ErrorShape::Error => "{\"error\":",
    });
    body.string(error.message());
    body.raw("}");
    body.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_quotes_and_control_characters_is_still_json() {
        let body = error_body(ErrorShape::Error, &Error::invalid("input \"X\"\n\u{1}ü"));
        let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(parsed["error"], "input \"X\"\n\u{1}ü");
    }
}
