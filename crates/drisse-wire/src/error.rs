//! The table of errors: HTTP and gRPC status of each error kind, its headers, and the body that each protocol uses.

use crate::json::Writer;
use drisse_core::{Error, ErrorKind};
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

/// Returns the HTTP status of an error kind.
pub fn http_status(kind: ErrorKind) -> u16 {
    row(kind).0
}

/// Returns the gRPC status code of an error kind (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
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
        ErrorKind::NotAcceptable => (406, 3),
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

/// Sets the headers that an error's status requires: `WWW-Authenticate` for 401, `Retry-After` (whole seconds, at
/// least 1) for 503.
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

/// Returns the error of a response that cannot carry `output`, with the `remedy`; other errors as they are.
pub(crate) fn with_remedy(error: Error, output: &str, remedy: &str) -> Error {
    match error.kind() {
        ErrorKind::NotAcceptable => {
            let message = format!("output \"{output}\": {}: {remedy}", error.message());
            Error::new(ErrorKind::NotAcceptable, message)
        }
        _ => error,
    }
}

/// The remedy where a protocol has no binary form.
pub(crate) const V2_HAS_BINARY: &str = "send the request to /v2/models/NAME/infer, with `binary_data_output` or without this output in `outputs`";

/// The shape of a JSON error body, which depends on the protocol.
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
    /// Returns the shape of error bodies on this path.
    pub fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("/v1") || path.starts_with("/v2") => Self::Error,
            "/invocations" => Self::Code,
            _ => Self::Message,
        }
    }
}

/// MLflow's error code for a status (mlflow/protos/databricks.proto).
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

/// Returns the JSON body of an error response.
///
/// ```
/// use drisse_wire::{ErrorShape, error_body, http_status};
///
/// let error = drisse_core::Error::invalid("the body has no `data`");
/// assert_eq!(http_status(error.kind()), 400);
/// assert_eq!(error_body(ErrorShape::of("/score"), &error), br#"{"message":"the body has no `data`"}"#);
/// ```
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
