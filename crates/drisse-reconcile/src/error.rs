//! Why a round of the reconciler was not finished.

use drisse_core::TargetError;
use drisse_wire::control::Failure;

/// A failure of a port or of a round.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", failure.message)]
pub struct ReconcileError {
    /// What was attempted, why it failed, and what to do about it.
    pub failure: Failure,
    /// Whether further rounds cannot succeed either.
    pub permanent: bool,
}

impl ReconcileError {
    /// Returns an error after which another round may succeed.
    pub fn new(message: impl Into<String>) -> Self {
        Failure::new(message).into()
    }
}

impl From<Failure> for ReconcileError {
    fn from(failure: Failure) -> Self {
        Self { failure, permanent: false }
    }
}

impl From<TargetError> for ReconcileError {
    fn from(error: TargetError) -> Self {
        // An error with a hint can be fixed by the user, so it is not an internal one.
        let internal = error.hint.is_none();
        let failure = Failure { hint: error.hint.clone(), internal, ..Failure::of(&error) };
        Self { failure, permanent: error.permanent }
    }
}
