//! What an operation decided, kept with it: a control plane that starts again continues from here.

use crate::running::Running;
use serde::{Deserialize, Serialize};

/// What an operation decided, kept with it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Decided {
    pub(super) generation: u64,
    pub(super) revision: u64,
    pub(super) changed: bool,
    /// Where to go back to: nowhere, for a first deployment.
    pub(super) before: Option<Before>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) revision: u64,
    pub(super) replicas: u32,
}

impl Decided {
    /// What an earlier control plane decided for this operation; `None` if it had not come so far.
    pub(super) fn of(op: &Running) -> Option<Self> {
        serde_json::from_value(op.row.progress.clone()).ok()
    }
}
