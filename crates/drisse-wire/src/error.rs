//! The one table of errors: each kind's HTTP and gRPC status, its headers, and each protocol's body.

use crate::json::Writer;
use drisse_core::{Error, ErrorKind};
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

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
        ErrorKind::Forbidden => (403, 7),
        ErrorKind::NotFound => (404, 5),
        ErrorKind::MethodNotAllowed => (405, 12),
        ErrorKind::Conflict => (409, 10),
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
    /// `{"error_code": …, "message": …}`: `/invocations`, as MLflow answers.
    Code,
}

impl ErrorShape {
    /// The shape in which errors on this path are told.
    pub fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("/v1") || path.starts_with("/v2") => Self::Error,
            "/invocations" => Self::Code,
            _ => Self::Message,
        }
    }
}

/// MLflow's word for a status (mlflow/protos/databricks.proto).
fn mlflow_code(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        404 => "RESOURCE_DOES_NOT_EXIST",
        503 => "TEMPORARILY_UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        500.. => "INTERNAL_ERROR",
        _ => "BAD_REQUEST",
    }
}

/// The JSON body that tells a client of an error.
pub fn error_body(shape: ErrorShape, error: &Error) -> Vec<u8> {
    let mut body = Writer::new();
    match shape {
        ErrorShape::Message => body.raw("{\"message\":"),
        ErrorShape::Error => body.raw("{\"error\":"),
        ErrorShape::Code => {
            body.raw("{\"error_code\":");
            body.string(mlflow_code(http_status(error.kind())));
            body.raw(",\"message\":");
        }
    }
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
