//! The error of a command: its causes, a hint and the exit code.

use drisse_client::ClientError;
use drisse_net::TlsError;
use drisse_net::http::HttpError;
use drisse_net::trace::VariableError;
use drisse_registry::{ImageError, InspectError};
use drisse_serve::ServeError;
use drisse_wire::control;
use std::fmt;

/// The exit code after an interrupt from the keyboard: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// The exit code of a control plane whose workspace another one has. The command that started it waits for that one.
pub(crate) const TAKEN: u8 = 3;

/// The result of a command, or of a part of it.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// The error of a command.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) error: anyhow::Error,
    /// What the user can do next.
    pub(crate) hint: Option<String>,
    /// Exit code. 1: the user can fix it. 2: Drisse failed.
    pub(crate) code: u8,
}

impl CliError {
    /// Creates an error that the user can fix (exit code 1).
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        anyhow::Error::msg(message.to_string()).into()
    }

    /// Puts what was attempted before the message.
    pub(crate) fn context(self, what: String) -> Self {
        Self { error: self.error.context(what), ..self }
    }

    /// Sets the exit code.
    pub(crate) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Sets the hint.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<anyhow::Error> for CliError {
    fn from(error: anyhow::Error) -> Self {
        let hint = error.chain().find_map(|cause| {
            let inspect = cause.downcast_ref::<InspectError>().and_then(InspectError::hint);
            inspect.or_else(|| cause.downcast_ref::<ImageError>().and_then(ImageError::hint))
        });
        Self { error, hint, code: 1 }
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        let (hint, code) = (error.hint(), if error.is_internal() { 2 } else { 1 });
        Self { error: error.into(), hint, code }
    }
}

impl From<TlsError> for CliError {
    fn from(error: TlsError) -> Self {
        anyhow::Error::from(error).into()
    }
}

impl From<VariableError> for CliError {
    fn from(error: VariableError) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { error: error.into(), hint, code: 1 }
    }
}

impl From<ImageError> for CliError {
    fn from(error: ImageError) -> Self {
        anyhow::Error::from(error).into()
    }
}

/// Converts an error that the control plane has reported.
impl From<control::Failure> for CliError {
    fn from(reported: control::Failure) -> Self {
        let mut causes = reported.causes.into_iter().rev();
        let error = match causes.next() {
            None => anyhow::Error::msg(reported.message),
            Some(root) => causes
                .fold(anyhow::Error::msg(root), |error, cause| error.context(cause))
                .context(reported.message),
        };
        Self { error, hint: reported.hint, code: if reported.internal { 2 } else { 1 } }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(failure, _) => failure.into(),
            broken @ ClientError::Unreachable(HttpError::Broken { .. }) => {
                let hint = "the operation may have started anyway: `drisse operations` lists it";
                Self { error: broken.into(), hint: Some(hint.to_owned()), code: 2 }
            }
            other => Self { error: other.into(), hint: None, code: 2 },
        }
    }
}
