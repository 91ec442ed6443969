//! What went wrong in the control plane: whose it is, and what to do about it.

use drisse_wire::control::Failure;

/// A failure and the HTTP status it is told with: 4xx the caller can mend, 5xx we failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) failure: Failure,
}

impl Problem {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, failure: Failure { internal: status >= 500, ..Failure::new(message) } }
    }

    /// The request makes no sense, or does not fit what is there.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// What is named does not exist.
    pub(crate) fn absent(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// What is there stands against it.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, message)
    }

    /// We failed, or this machine did.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(500, message)
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
        let problem = self.because(error);
        match drisse_registry::disk_hint(error) {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }

    /// Puts what was attempted in front.
    pub(crate) fn context(mut self, what: impl Into<String>) -> Self {
        self.failure = self.failure.context(what);
        self
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        let what = "the workspace's database drisse.db refused";
        let sqlx::Error::Database(refused) = &error else { return Self::failed(what).because(&error) };
        // https://www.sqlite.org/rescode.html: the lowest byte is the kind.
        let code = refused.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0);
        let (status, hint) = match code & 0xff {
            8 => {
                (400, "the disk is read-only, or the file is: `dmesg` and `findmnt` say more; try again then")
            }
            10 => (
                500,
                "the disk fails: `dmesg` says more, `drisse doctor` what is damaged; what was acknowledged is \
                 kept, try again",
            ),
            11 | 26 => (
                500,
                "it is damaged: `drisse doctor` says more; `drisse down`, then `drisse up --restore`, takes its \
                 backup",
            ),
            13 => (400, "free some room on the disk of the workspace"),
            _ => return Self::failed(what).because(&**refused),
        };
        Self::new(status, what).because(&**refused).hint(hint)
    }
}

impl From<drisse_registry::StoreError> for Problem {
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
        Self { status: if theirs { 400 } else { 500 }, failure: Failure { internal: !theirs, ..failure } }
    }
}

impl From<drisse_registry::InspectError> for Problem {
    fn from(error: drisse_registry::InspectError) -> Self {
        Self { status: 400, failure: Failure { hint: error.hint(), ..Failure::of(&error) } }
    }
}

impl From<drisse_core::TargetError> for Problem {
    fn from(error: drisse_core::TargetError) -> Self {
        // Where something can be done about it, it is not ours.
        let internal = error.hint.is_none();
        let failure = Failure { hint: error.hint.clone(), internal, ..Failure::of(&error) };
        Self { status: if internal { 500 } else { 503 }, failure }
    }
}
