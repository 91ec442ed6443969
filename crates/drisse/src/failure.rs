//! A command that did not succeed: why, what to do next, and with which code to exit.

use drisse_client::ClientError;
use drisse_net::http::HttpError;
use drisse_registry::{ImageError, InspectError};
use drisse_wire::control;
use std::fmt;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: anyhow::Error,
    pub(crate) hint: Option<String>,
    /// 1: the user can mend it. 2: we failed.
    pub(crate) code: u8,
}

impl Failure {
    /// One the user can mend.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        anyhow::Error::msg(message.to_string()).into()
    }

    /// Says what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let hint = error.chain().find_map(|cause| {
            let inspect = cause.downcast_ref::<InspectError>().and_then(InspectError::hint);
            inspect.or_else(|| cause.downcast_ref::<ImageError>().and_then(ImageError::hint))
        });
        Self { error, hint, code: 1 }
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        anyhow::Error::from(error).into()
    }
}

/// A failure as the control plane told it.
impl From<control::Failure> for Failure {
    fn from(told: control::Failure) -> Self {
        let mut causes = told.causes.into_iter().rev();
        let error = match causes.next() {
            None => anyhow::Error::msg(told.message),
            Some(root) => causes
                .fold(anyhow::Error::msg(root), |error, cause| error.context(cause))
                .context(told.message),
        };
        Self { error, hint: told.hint, code: if told.internal { 2 } else { 1 } }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(failure, _) => failure.into(),
            broken @ ClientError::Unreachable(HttpError::Broken { .. }) => {
                let hint = "what was asked may have begun all the same: `drisse operations` lists it";
                Self { error: broken.into(), hint: Some(hint.to_owned()), code: 2 }
            }
            other => Self { error: other.into(), hint: None, code: 2 },
        }
    }
}
