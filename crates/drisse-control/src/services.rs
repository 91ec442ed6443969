//! Services: what is wanted of them is decided here, written down, and followed until it is so.

pub(crate) mod capacity;
mod convergence;
mod decision;
mod delete;
mod deploy;
mod key;
mod options;
mod revision;
mod rollback;

use crate::claims::Claims;
use crate::db::Db;
use crate::error::{ControlError, Result};
use crate::models::Models;
use crate::targets::TargetTable;
use drisse_core::ServiceName;
use drisse_reconcile::{Handle, Reconcilers};
pub(crate) use options::check_options;
use std::sync::Arc;

/// What changes services. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) db: Db,
    pub(crate) models: Arc<Models>,
    pub(crate) targets: Arc<TargetTable>,
    pub(crate) reconcilers: Reconcilers,
    pub(crate) claims: Arc<Claims>,
}

impl Services {
    /// The task of a service, started if it does not run.
    fn task(&self, name: &str) -> Result<Handle> {
        Ok(self.reconcilers.of(&parsed(name)?))
    }

    /// The task of a service; `None` if it does not run.
    pub(crate) fn running_task(&self, name: &str) -> Option<Handle> {
        self.reconcilers.get(&name.parse().ok()?)
    }

    /// Has a service looked at soon.
    pub(crate) fn wake(&self, name: &str) {
        self.running_task(name).iter().for_each(Handle::wake);
    }
}

/// The name of a service.
pub(crate) fn parsed(name: &str) -> Result<ServiceName> {
    name.parse().map_err(|error| ControlError::invalid("the service has an invalid name").because(&error))
}
