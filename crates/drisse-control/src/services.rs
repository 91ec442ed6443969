//! Services: changes their desired state, stores it, and waits until the reconciler has reached it.

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
pub(crate) use options::{check_options, check_time};
use std::sync::Arc;

/// Changes services. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub(crate) db: Db,
    pub(crate) models: Arc<Models>,
    pub(crate) targets: Arc<TargetTable>,
    pub(crate) reconcilers: Reconcilers,
    pub(crate) claims: Arc<Claims>,
}

impl Services {
    /// Returns the reconciler task of a service. Starts it if it does not run.
    fn task(&self, name: &str) -> Result<Handle> {
        Ok(self.reconcilers.of(&parsed(name)?))
    }

    /// Returns the reconciler task of a service; `None` if it does not run.
    pub(crate) fn running_task(&self, name: &str) -> Option<Handle> {
        self.reconcilers.get(&name.parse().ok()?)
    }

    /// Wakes the reconciler of a service.
    pub(crate) fn wake(&self, name: &str) {
        self.running_task(name).iter().for_each(Handle::wake);
    }
}

/// Parses the name of a service.
pub(crate) fn parsed(name: &str) -> Result<ServiceName> {
    name.parse().map_err(|error| ControlError::invalid("the service has an invalid name").because(&error))
}
