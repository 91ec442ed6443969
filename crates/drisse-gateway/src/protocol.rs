//! The protocol that a client speaks, and errors in its form.

use crate::answer::{AnswerBody, grpc_answer, own};
use crate::error::ProxyError;
use drisse_core::Error;
use drisse_wire::{ErrorShape, grpc, http_status};
use hyper::{Response, StatusCode};
use std::time::Instant;

/// The protocol of a request, which decides what its errors look like.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// HTTP, with errors of this shape.
    Http(ErrorShape),
    Grpc,
}

/// A request as it arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) protocol: Protocol,
    /// When its head was there.
    pub(crate) started: Instant,
    /// Probes need no key and are not traced.
    pub(crate) is_open: bool,
}

impl Protocol {
    /// The answer that says why there is none from a replica, and the status that metrics and logs count: an error of
    /// gRPC has the HTTP status 200.
    pub(crate) fn failure(self, error: &ProxyError) -> (u16, Response<AnswerBody>) {
        match (self, error) {
            // No kind of error stands for this status.
            (Self::Http(shape), ProxyError::Broken(error)) => (502, http(shape, error, 502)),
            (_, ProxyError::Refused(error)) => (http_status(error.kind()), self.refusal(error)),
            (Self::Grpc, ProxyError::Broken(error)) => (http_status(error.kind()), self.refusal(error)),
        }
    }

    /// The answer that says `error`.
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
