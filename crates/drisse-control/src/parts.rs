//! Assembles the parts of the control plane. Each part gets only what it depends on.

use crate::claims::Claims;
use crate::db::Db;
use crate::desired::DatabaseDesired;
use crate::models::Models;
use crate::operations::Operations;
use crate::services::Services;
use crate::stop::Stop;
use crate::targets::TargetTable;
use drisse_reconcile::{Ports, Reconcilers, Routes};
use drisse_registry::Store;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// What the parts depend on.
pub(crate) struct Parts {
    pub(crate) db: Db,
    pub(crate) store: Store,
    pub(crate) targets: Arc<TargetTable>,
    /// The routes of the gateway.
    pub(crate) routes: Arc<dyn Routes>,
    /// The folder of the services' keys and logs.
    pub(crate) files: PathBuf,
}

impl Parts {
    /// Assembles the parts. Their tasks belong to `tasks` and end with `stop`. Requires a tokio runtime.
    pub(crate) fn assemble(self, tasks: &TaskTracker, stop: &Stop) -> (Services, Operations) {
        let Self { db, store, targets, routes, files } = self;
        let models = Models::new(db.clone(), store);
        let claims = Arc::new(Claims::default());
        let desired = DatabaseDesired {
            db: db.clone(),
            models: Arc::clone(&models),
            claims: Arc::clone(&claims),
            services: files,
        };
        let ports = Ports { desired: Arc::new(desired), routes, targets: Arc::clone(&targets) as _ };
        let reconcilers = Reconcilers::new(ports, tasks.clone(), stop.token());
        let services = Services { db, models, targets, reconcilers, claims };
        let operations = Operations::new(services.clone(), tasks.clone());
        (services, operations)
    }
}
