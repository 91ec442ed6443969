//! The error type of the scoring path: a kind that protocols map to a status, and a message for people.

use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an [`Error`]. `drisse-wire` maps each kind to an HTTP and a gRPC status, in one table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The request is malformed or does not fit the model.
    InvalidInput,
    /// The model ran and failed on the values of these inputs.
    Rejected,
    /// The key is missing or wrong.
    Unauthenticated,
    /// This server does not allow the request, with any key.
    Forbidden,
    /// The path names something that does not exist.
    NotFound,
    /// The request contradicts the present state.
    Conflict,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body, its decoded form or the memory that the run needs is over a limit.
    TooLarge,
    /// The content type names a format that the endpoint does not accept.
    UnsupportedMediaType,
    /// The form in which the response is wanted cannot carry it.
    NotAcceptable,
    /// The headers are over a limit.
    HeadersTooLarge,
    /// The request was refused at once because it would not be answered in time.
    Overloaded,
    /// The model or the server is not ready (loading, draining).
    Unavailable,
    /// The deadline passed.
    DeadlineExceeded,
    /// The client disconnected.
    Cancelled,
    /// A bug, or a failure of the machine.
    Internal,
}

/// An error of the scoring path.
///
/// ```
/// use drisse_core::{Error, ErrorKind};
///
/// let error = Error::invalid("input `x` is given twice").context("cannot score `digits`");
/// assert_eq!(error.kind(), ErrorKind::InvalidInput);
/// assert_eq!(error.to_string(), "cannot score `digits`: input `x` is given twice");
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    retry_after: Option<std::time::Duration>,
}

impl Error {
    /// Creates an error. `message` says what was attempted on what and why it failed, in lowercase and without a full
    /// stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), retry_after: None }))
    }

    /// Creates an error of the kind [`ErrorKind::InvalidInput`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Creates an error of the kind [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Sets how long the client should wait before a retry.
    #[must_use]
    pub fn retry_after(mut self, after: std::time::Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Puts what was attempted in front of the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns how long the client should wait before a retry; `None` if that is not known.
    pub fn retry_after_hint(&self) -> Option<std::time::Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)
    }
}

impl std::error::Error for Error {}
