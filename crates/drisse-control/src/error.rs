//! Errors of the control plane, with their kind and a hint what to do.

use drisse_core::ErrorKind;
use drisse_reconcile::ReconcileError;
use drisse_wire::control::Failure;

/// The result of the control plane's functions.
pub(crate) type Result<T, E = ControlError> = std::result::Result<T, E>;

/// Why a request to the control plane failed. The API maps the kind to a status with the table in `drisse-wire`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", failure.message)]
pub(crate) struct ControlError {
    /// The kind, which says who can fix the error.
    pub(crate) kind: ErrorKind,
    /// What was attempted, why it failed, and what to do about it.
    pub(crate) failure: Failure,
}

/// Why a control plane cannot run.
#[derive(Debug, thiserror::Error)]
#[error("{}", failure.message)]
pub struct RunError {
    /// What failed, why, and what to do about it.
    pub failure: Failure,
    /// Whether the reason is that another control plane has the workspace.
    pub taken: bool,
}

impl ControlError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let internal = kind == ErrorKind::Internal;
        Self { kind, failure: Failure { internal, ..Failure::new(message) } }
    }

    /// Creates the error of an invalid request.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Creates the error that a named object does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Creates the error of a request that is not possible in the current state.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Creates the error that Drisse or this machine failed.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.failure = self.failure.hint(hint);
        self
    }

    /// Adds an error and its sources as causes.
    pub(crate) fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let cause = Failure::of(error);
        self.failure.causes.push(cause.message);
        self.failure.causes.extend(cause.causes);
        self
    }

    /// Adds a text as a cause.
    pub(crate) fn cause(mut self, why: impl Into<String>) -> Self {
        self.failure.causes.push(why.into());
        self
    }

    /// Adds an error of the file system as a cause, with a hint.
    pub(crate) fn because_of_disk(self, error: &std::io::Error) -> Self {
        let failed = self.because(error);
        match drisse_registry::disk_hint(error) {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }

    /// Removes a text from the message and the causes.
    pub(crate) fn without(mut self, text: &str) -> Self {
        let Failure { message, causes, .. } = &mut self.failure;
        for line in causes.iter_mut().chain([message]) {
            *line = line.replace(text, "");
        }
        self
    }

    /// Puts what was attempted before the message.
    pub(crate) fn context(mut self, what: impl Into<String>) -> Self {
        self.failure = self.failure.context(what);
        self
    }
}

impl From<sqlx::Error> for ControlError {
    fn from(error: sqlx::Error) -> Self {
        let what = "cannot use the workspace's database drisse.db";
        let sqlx::Error::Database(refused) = &error else { return Self::internal(what).because(&error) };
        // https://www.sqlite.org/rescode.html: the lowest byte is the kind.
        let code = refused.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0);
        use ErrorKind::{Internal, InvalidInput};
        let (kind, hint) = match code & 0xff {
            8 => {
                (InvalidInput, "the disk or the file is read-only: see `dmesg` and `findmnt`, then try again")
            }
            10 => (
                Internal,
                "the disk fails: see `dmesg`, and `drisse doctor` for damage; acknowledged changes are kept, try \
                 again",
            ),
            11 | 26 => (
                Internal,
                "the database is damaged: see `drisse doctor`; `drisse down`, then `drisse up --restore`, restores \
                 its backup",
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
        use drisse_registry::StoreError::{Changed, Digest, Io, Names, NotUploaded, Package, Size};
        let theirs = match &error {
            Changed { .. }
            | Digest { .. }
            | Names { .. }
            | NotUploaded { .. }
            | Package { .. }
            | Size { .. } => true,
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

impl From<ControlError> for RunError {
    fn from(error: ControlError) -> Self {
        Self { taken: false, failure: error.failure }
    }
}
