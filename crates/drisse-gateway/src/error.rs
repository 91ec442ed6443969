//! The errors of requests that get no answer from a replica.

use drisse_core::{Error, ErrorKind};

/// Why a request got no answer from a replica.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    /// The request is refused. No replica has read all of it.
    #[error(transparent)]
    Refused(#[from] Error),
    /// The replica broke off and may have scored the request.
    #[error(transparent)]
    Broken(Error),
}

/// Returns the error of a request to a service that has no routes.
pub(crate) fn unknown_service(name: &str) -> Error {
    let name = &name[..name.floor_char_boundary(64)];
    let message = format!("there is no service `{name}`: `drisse services` lists the services");
    Error::new(ErrorKind::NotFound, message)
}

/// Says in Triton's words, which its clients look for, that no service has the model's name.
pub(crate) fn unknown_model(error: Error, name: &str) -> Error {
    let name = &name[..name.floor_char_boundary(64)];
    error.context(format_args!("Request for unknown model: '{name}' is not found"))
}

/// Returns the error of a request whose service was deleted while the request waited.
pub(crate) fn deleted(service: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("service `{service}` was deleted"))
}

/// Returns the error of a request whose deadline passed.
pub(crate) fn late(service: &str) -> Error {
    let message = format!(
        "the deadline passed before a replica of service `{service}` had answered: allow more with \
         x-request-timeout-ms, or `drisse update {service} --scoring-timeout`"
    );
    Error::new(ErrorKind::DeadlineExceeded, message)
}

/// Returns the error of a request that a replica did not answer completely.
pub(crate) fn broken(service: &str) -> ProxyError {
    ProxyError::Broken(Error::internal(format!(
        "a replica of service `{service}` ended while it had this request: `drisse services show {service}` says \
         why; it may have been scored, so it was not sent again"
    )))
}
