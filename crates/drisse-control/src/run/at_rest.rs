//! Shows what a workspace keeps while it is down, without starting anything.

use crate::api::Api;
use crate::control::{About, Control};
use crate::db::Db;
use crate::error::{ControlError, RunError};
use crate::gateway::Gateway;
use crate::parts::Parts;
use crate::stop::Stop;
use crate::targets::{TargetTable, Targets};
use crate::workspace::{Lock, Workspace};
use drisse_net::{Build, Listener, serve_small};
use drisse_registry::Store;
use std::future::Future;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Serves the requests of the control API that only read, for a workspace that is down. Returns a future that serves
/// `listener` until it is dropped. No service, no gateway and no operation is started. `_lock` keeps a control plane from
/// being started meanwhile.
///
/// # Errors
/// Returns an error if the database cannot be opened.
pub async fn serve_at_rest(
    workspace: Workspace,
    version: &'static str,
    build: Build,
    targets: impl FnOnce(&Workspace, &Store) -> std::io::Result<Targets>,
    (listener, _lock): (UnixListener, Lock),
) -> std::result::Result<impl Future<Output = ()>, RunError> {
    let db = Db::open(&workspace.database()).await?;
    let store = Store::existing(&workspace.store());
    let gateway = Gateway::at_rest(&workspace, build.clone(), &db).await?;
    let targets = targets(&workspace, &store)
        .map_err(|error| ControlError::internal("cannot open the targets").because(&error))?;
    let (tasks, stop) = (TaskTracker::new(), Stop::default());
    let parts = Parts {
        files: workspace.services(),
        store,
        targets: TargetTable::open(targets, &db).await?,
        routes: Arc::new(gateway.clone()),
        db: db.clone(),
    };
    let (services, operations) = parts.assemble(&tasks, &stop);
    let about = About { workspace, version, build, at_rest: true, metrics: None, registry: None };
    let control = Control { about: Arc::new(about), db, services, operations, gateway, stop };
    let (end, ends) = watch::channel(false);
    let served = serve_small(Listener::Unix(listener), Api::local(&control), ends)
        .map_err(|error| ControlError::internal("cannot serve the control API").because(&error))?;
    Ok(async move {
        served.await;
        drop((_lock, end));
    })
}
