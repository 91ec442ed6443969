//! The one error of the scoring path: a kind machines map to a status, a message people act on.

use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the few ways a client or an operator can tell apart.
///
/// `drisse-wire` maps each to an HTTP and a gRPC status, in one table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The request cannot be understood, or does not fit the model.
    InvalidInput,
    /// The model ran and refused these inputs (a node failed on their values).
    Rejected,
    /// No key, or a wrong one.
    Unauthenticated,
    /// Nobody may do this here.
    Forbidden,
    /// What the path names does not exist.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The body, or what it decodes to, is over a limit.
    TooLarge,
    /// The content type names a format this endpoint does not speak.
    UnsupportedMediaType,
    /// Headers are over a limit.
    HeadersTooLarge,
    /// Refused at once because it could not be served in time.
    Overloaded,
    /// The model, or the server, is not ready (loading, draining).
    Unavailable,
    /// The deadline passed.
    DeadlineExceeded,
    /// The client left.
    Cancelled,
    /// A bug, or a machine that fails.
    Internal,
}

/// An error of the scoring path.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    retry_after: Option<std::time::Duration>,
}

impl Error {
    /// `message` says what was attempted and on what, lowercase, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), retry_after: None }))
    }

    /// An [`ErrorKind::InvalidInput`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// An [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Says when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, after: std::time::Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Puts what was being done in front of the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// When it is worth trying again, where that is known.
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
