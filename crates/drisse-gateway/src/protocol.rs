//! The protocol of a client, and the answers that report errors in it.

use crate::answer::{AnswerBody, grpc_answer, own};
use crate::error::ProxyError;
use drisse_core::Error;
use drisse_wire::{ErrorShape, grpc, http_status};
use hyper::{Response, StatusCode};
use std::time::Instant;

/// The protocol of a request, which determines the form of its errors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// HTTP, with errors of this shape.
    Http(ErrorShape),
    Grpc,
}

/// How and when a request arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) protocol: Protocol,
    /// When the head of the request had arrived.
    pub(crate) started: Instant,
    /// Whether the request is a probe, which needs no key and is not traced.
    pub(crate) is_open: bool,
}

impl Protocol {
    /// Returns the answer that reports why no replica answered, and the status for metrics and logs: the HTTP status of
    /// a gRPC error is always 200.
    pub(crate) fn failure(self, error: &ProxyError) -> (u16, Response<AnswerBody>) {
        match (self, error) {
            // No kind of error is mapped to this status.
            (Self::Http(shape), ProxyError::Broken(error)) => (502, http(shape, error, 502)),
            (_, ProxyError::Refused(error)) => (http_status(error.kind()), self.refusal(error)),
            (Self::Grpc, ProxyError::Broken(error)) => (http_status(error.kind()), self.refusal(error)),
        }
    }

    /// Returns the answer that reports `error`.
    pub(crate) fn refusal(self, error: &Error) -> Response<AnswerBody> {
        match self {
            Self::Http(shape) => http(shape, error, http_status(error.kind())),
            Self::Grpc => {
                let mut response = grpc_answer(AnswerBody::Whole(None));
                response.headers_mut().extend(grpc::trailers(error));
                response
            }
        }
    }
}

fn http(shape: ErrorShape, error: &Error, status: u16) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = own(status, "application/json", drisse_wire::error_body(shape, error));
    drisse_wire::error_headers(error, response.headers_mut());
    response
}
