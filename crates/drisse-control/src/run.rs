//! Runs the control plane: opens the workspace, continues operations, serves, and stops.

mod at_rest;
mod listeners;

pub use at_rest::serve_at_rest;

use crate::change::Change;
use crate::control::{About, Control};
use crate::db::Db;
use crate::error::{ControlError, RunError};
use crate::gateway::{Gateway, GatewayChange};
use crate::parts::Parts;
use crate::stop::Stop;
use crate::targets::{TargetTable, Targets};
use crate::workspace::Workspace;
use drisse_core::{Replica, ServiceSpec, Target, TargetError, crash_point};
use drisse_net::Build;
use drisse_registry::Store;
use drisse_wire::control::Shutdown;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

/// How long `drisse down` waits for replicas to end.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(40);

/// How long tasks may take once the control plane stops. A registration may still be copying a model: those blobs are
/// collected at the next start.
const TASKS_TIMEOUT: Duration = Duration::from_secs(3);

/// The configuration of a control plane.
#[derive(Debug)]
pub struct Config {
    /// The workspace.
    pub workspace: Workspace,
    /// Drisse's version.
    pub version: &'static str,
    /// The build of this binary.
    pub build: Build,
    /// The path of the binary, which also runs the gateway.
    pub program: PathBuf,
    /// A change of the gateway's settings.
    pub gateway: GatewayChange,
    /// The control API over TCP, for clients with the token.
    pub tcp: Change<TcpApi>,
    /// The address of the unauthenticated `/metrics` of the whole workspace.
    pub metrics: Change<SocketAddr>,
    /// The address at which the store is served, unauthenticated and read-only, as an OCI registry.
    pub registry: Change<SocketAddr>,
}

/// The control API over TCP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TcpApi {
    /// The address.
    pub address: SocketAddr,
    /// The files of the certificate and the key; required if the address is not a loopback address.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Runs the control plane of a workspace until `stop` completes or a client stops it. Calls `targets` once the
/// workspace is locked. Must be awaited on a single-threaded runtime.
///
/// # Errors
/// Returns an error if another control plane has the workspace, or if the workspace, the gateway or a listener cannot
/// be opened.
pub async fn run(
    config: Config,
    targets: impl FnOnce(&Workspace, &Store) -> std::io::Result<Targets>,
    stop: impl Future<Output = ()>,
) -> std::result::Result<(), RunError> {
    let workspace = config.workspace;
    let _lock = workspace.lock()?;
    let db = Db::open(&workspace.database()).await?;
    crash_point("the workspace is open");
    let store = Store::open(&workspace.store()).map_err(ControlError::from)?;
    let tcp = config.tcp.of(db.setting("control_api").await?.flatten());
    let metrics = config.metrics.of(db.setting("metrics").await?.flatten());
    let registry = config.registry.of(db.setting("registry").await?.flatten());
    let (gateway, supervised) =
        Gateway::open(&workspace, config.program, config.build.clone(), &db, config.gateway).await?;
    let targets = targets(&workspace, &store)
        .map_err(|error| ControlError::internal("cannot open the targets").because(&error))?;
    let (tasks, stopped) = (TaskTracker::new(), Stop::default());
    let parts = Parts {
        files: workspace.services(),
        store,
        targets: TargetTable::open(targets, &db).await?,
        routes: Arc::new(gateway.clone()),
        db: db.clone(),
    };
    let (services, operations) = parts.assemble(&tasks, &stopped);
    let about =
        About { workspace, version: config.version, build: config.build, at_rest: false, metrics, registry };
    let control = Control { about: Arc::new(about), db, services, operations, gateway, stop: stopped };
    // Ends with the gateway. Dropped, and so aborted, if the gateway continues.
    let mut supervisor = JoinSet::new();
    supervisor.spawn(supervised);
    // Everything is started before clients can connect.
    control.operations.resume().await?;
    crash_point("operations go on");
    control.services.reconcilers.start().await.map_err(ControlError::from)?;
    keep_house(&control, &tasks);
    let mark = control.about.workspace.stopped_mark();
    let _ = std::fs::remove_file(&mark);
    let how = listeners::serve(&control, tcp, stop).await?;
    if how == Shutdown::All {
        // Waiting commands see this file, and do not start a control plane again.
        let _ = std::fs::write(&mark, "");
    }
    tasks.close();
    if tokio::time::timeout(TASKS_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("{} tasks are unfinished: the next control plane continues them", tasks.len());
    }
    if how == Shutdown::All {
        control.gateway.stop();
        supervisor.join_next().await;
        stop_replicas(&control.services.targets).await;
        let _ = control.services.models.write_index().await;
    }
    control.db.back_up().await;
    control.db.close().await;
    Ok(())
}

/// Starts tasks that keep the index and the backup up to date, and others that remove abandoned uploads, and routes and
/// replicas of deleted services.
fn keep_house(control: &Control, tasks: &TaskTracker) {
    let (models, db) = (Arc::clone(&control.services.models), control.db.clone());
    let reconcilers = control.services.reconcilers.clone();
    let until = control.stop.token();
    tasks.spawn(until.clone().run_until_cancelled_owned(async move { models.keep_index().await }));
    tasks.spawn(until.clone().run_until_cancelled_owned(db.keep_backup()));
    let models = Arc::clone(&control.services.models);
    tasks.spawn(until.clone().run_until_cancelled_owned(models.forget_old_uploads()));
    tasks.spawn(until.run_until_cancelled_owned(async move {
        if let Err(error) = reconcilers.remove_orphans().await {
            tracing::warn!("cannot remove routes and replicas of deleted services: {:?}", error.failure);
        }
    }));
}

/// Stops every replica. The desired state does not change.
async fn stop_replicas(targets: &TargetTable) {
    for target in drisse_reconcile::Targets::all(targets) {
        match tokio::time::timeout(REPLICAS_TIMEOUT, stop_all(&*target)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("cannot stop replicas: {error}"),
            Err(_) => tracing::error!("replicas did not end in time"),
        }
    }
}

async fn stop_all(target: &dyn Target) -> std::result::Result<(), TargetError> {
    use futures_util::StreamExt;
    let mut changes = target.changes();
    loop {
        let there = target.list(None).await?;
        let up: BTreeSet<_> = there.iter().filter(|r| r.is_up()).map(|r| r.service.clone()).collect();
        for service in up {
            let nothing = ServiceSpec {
                service,
                wanted: vec![],
                in_use: BTreeSet::new(),
                start_timeout: Duration::ZERO,
            };
            target.apply(&nothing, &()).await?;
        }
        if target.list(None).await?.iter().all(|replica: &Replica| replica.death().is_some()) {
            return Ok(());
        }
        let _ = tokio::time::timeout(Duration::from_secs(1), changes.next()).await;
    }
}
