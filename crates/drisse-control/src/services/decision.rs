//! What an operation decided, kept with it: a control plane that starts again continues from here.

use crate::db::services::{ServiceRow, Share};
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

/// What was wanted before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Before {
    pub(super) revision: u64,
    replicas: u32,
    /// Empty in operations of an older Drisse, which wanted one revision only.
    #[serde(default)]
    wanted: Vec<Share>,
}

impl Before {
    pub(super) fn of(row: &ServiceRow) -> Self {
        Self { revision: row.revision, replicas: row.asked_replicas(), wanted: row.wanted.clone() }
    }

    /// What is to be wanted again.
    pub(super) fn wanted(&self) -> Vec<Share> {
        match &*self.wanted {
            [] => vec![Share::whole(self.revision, self.replicas)],
            wanted => wanted.to_vec(),
        }
    }
}

impl Decided {
    /// What an earlier control plane decided for this operation; `None` if it had not come so far.
    pub(super) fn of(op: &Running) -> Option<Self> {
        serde_json::from_value(op.row.progress.clone()).ok()
    }
}
