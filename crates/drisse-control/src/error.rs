//! Errors of the control plane: whose fault they are, and what to do about them.

use drisse_core::ErrorKind;
use drisse_reconcile::ReconcileError;
use drisse_wire::control::Failure;

/// The result of the control plane's functions.
pub(crate) type Result<T, E = ControlError> = std::result::Result<T, E>;

/// Why the control plane did not do what was asked. The API maps the kind to a status, by the one table in
/// `drisse-wire`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", failure.message)]
pub(crate) struct ControlError {
    /// Whose fault it is.
    pub(crate) kind: ErrorKind,
    /// What was attempted, why it failed, and what to do about it.
    pub(crate) failure: Failure,
}

impl ControlError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let internal = kind == ErrorKind::Internal;
        Self { kind, failure: Failure { internal, ..Failure::new(message) } }
    }

    /// The request makes no sense, or does not fit the present state.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// The named object does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The request contradicts the present state.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Drisse failed, or this machine did.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.failure = self.failure.hint(hint);
        self
    }

    /// Adds an error and what led to it.
    pub(crate) fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let cause = Failure::of(error);
        self.failure.causes.push(cause.message);
        self.failure.causes.extend(cause.causes);
        self
    }

    /// Adds a reason that is a sentence.
    pub(crate) fn cause(mut self, why: impl Into<String>) -> Self {
        self.failure.causes.push(why.into());
        self
    }

    /// Adds an error of the file system, and what to do about it.
    pub(crate) fn because_of_disk(self, error: &std::io::Error) -> Self {
        let failed = self.because(error);
        match drisse_registry::disk_hint(error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }

    /// Puts what was attempted in front.
    pub(crate) fn context(mut self, what: impl Into<String>) -> Self {
        self.failure = self.failure.context(what);
        self
    }
}

impl From<sqlx::Error> for ControlError {
    fn from(error: sqlx::Error) -> Self {
        let what = "the workspace's database drisse.db refused";
        let sqlx::Error::Database(refused) = &error else { return Self::internal(what).because(&error) };
        // https://www.sqlite.org/rescode.html: the lowest byte is the kind.
        let code = refused.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0);
        use ErrorKind::{Internal, InvalidInput};
        let (kind, hint) = match code & 0xff {
            8 => (
                InvalidInput,
                "the disk is read-only, or the file is: `dmesg` and `findmnt` say more; try again then",
            ),
            10 => (
                Internal,
                "the disk fails: `dmesg` says more, `drisse doctor` what is damaged; what was acknowledged is \
                 kept, try again",
            ),
            11 | 26 => (
                Internal,
                "it is damaged: `drisse doctor` says more; `drisse down`, then `drisse up --restore`, takes its \
                 backup",
            ),
            13 => (InvalidInput, "free some room on the disk of the workspace"),
            _ => return Self::internal(what).because(&**refused),
        };
        Self::new(kind, what).because(&**refused).hint(hint)
    }
}

impl From<drisse_registry::StoreError> for ControlError {
    fn from(error: drisse_registry::StoreError) -> Self {
        let failure = Failure { hint: error.hint(), ..Failure::of(&error) };
        use drisse_registry::StoreError::{Changed, Io, Names};
        let theirs = match &error {
            Changed { .. } | Names { .. } => true,
            Io { source, .. } => {
                use std::io::ErrorKind::{ReadOnlyFilesystem, StorageFull};
                matches!(source.kind(), StorageFull | ReadOnlyFilesystem)
            }
            _ => false,
        };
        let kind = if theirs { ErrorKind::InvalidInput } else { ErrorKind::Internal };
        Self { kind, failure: Failure { internal: !theirs, ..failure } }
    }
}

impl From<drisse_registry::InspectError> for ControlError {
    fn from(error: drisse_registry::InspectError) -> Self {
        Self { kind: ErrorKind::InvalidInput, failure: Failure { hint: error.hint(), ..Failure::of(&error) } }
    }
}

impl From<drisse_core::TargetError> for ControlError {
    fn from(error: drisse_core::TargetError) -> Self {
        ReconcileError::from(error).into()
    }
}

impl From<ReconcileError> for ControlError {
    fn from(error: ReconcileError) -> Self {
        let kind = if error.failure.internal { ErrorKind::Internal } else { ErrorKind::Unavailable };
        Self { kind, failure: error.failure }
    }
}

impl From<ControlError> for ReconcileError {
    fn from(error: ControlError) -> Self {
        error.failure.into()
    }
}
