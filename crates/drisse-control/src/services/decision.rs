//! The decision of an operation on a service. It is stored with the operation, so that a restarted control plane
//! continues from it.

use crate::db::services::{ServiceRow, Share};
use crate::running::Running;
use serde::{Deserialize, Serialize};

/// The decision of an operation, stored with it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Decided {
    pub(super) generation: u64,
    pub(super) revision: u64,
    pub(super) changed: bool,
    /// The desired state to restore if the operation fails; `None` for a first deployment.
    pub(super) before: Option<Before>,
}

/// The desired state of a service before an operation.
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

    /// Returns the revisions to restore.
    pub(super) fn wanted(&self) -> Vec<Share> {
        match &*self.wanted {
            [] => vec![Share::whole(self.revision, self.replicas)],
            wanted => wanted.to_vec(),
        }
    }
}

impl Decided {
    /// Returns the decision that an earlier control plane stored for this operation; `None` if it stored none.
    pub(super) fn of(op: &Running) -> Option<Self> {
        serde_json::from_value(op.row.progress.clone()).ok()
    }
}
