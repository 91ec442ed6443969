//! The control plane's life: open the workspace, continue what was under way, serve, end.

mod listeners;

use crate::control::{About, Control};
use crate::db::Db;
use crate::error::ControlError;
use crate::gateway::{Gateway, GatewayChange};
use crate::parts::Parts;
use crate::stop::Stop;
use crate::targets::{TargetTable, Targets};
use crate::workspace::{LockError, Workspace};
use drisse_core::{Replica, ServiceSpec, Target, TargetError, step};
use drisse_net::Build;
use drisse_registry::Store;
use drisse_wire::control::{Failure, Shutdown};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

/// How long `down` waits for replicas that were told to end.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(40);

/// How long tasks may take once the control plane ends. A registration may still be copying a model: what it copied is
/// collected at the next start.
const TASKS_TIMEOUT: Duration = Duration::from_secs(3);

/// What a control plane needs to be told.
#[derive(Debug)]
pub struct Config {
    /// Its workspace.
    pub workspace: Workspace,
    /// Drisse's version and this binary's build.
    pub version: &'static str,
    /// This binary's build.
    pub build: Build,
    /// The binary that serves and routes.
    pub program: PathBuf,
    /// What is to change about the gateway.
    pub gateway: GatewayChange,
    /// Where the control API is also to listen, for who has the token.
    pub tcp: Change<TcpApi>,
    /// Where `/metrics` of everything is to be, for who can connect.
    pub metrics: Change<SocketAddr>,
    /// Where the store is to be read as from a registry, on this machine.
    pub registry: Change<SocketAddr>,
}

/// What is to become of a setting that is kept for the next start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Change<T> {
    /// It stays.
    #[default]
    Keep,
    /// It is this from now on.
    Set(T),
    /// There is none any more.
    Clear,
}

impl<T> Change<T> {
    fn of(self, kept: Option<T>) -> Option<T> {
        match self {
            Self::Keep => kept,
            Self::Set(value) => Some(value),
            Self::Clear => None,
        }
    }
}

/// The control API over TCP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TcpApi {
    /// The address.
    pub address: SocketAddr,
    /// Certificate and key; required beyond loopback.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Why a control plane cannot run.
#[derive(Debug, thiserror::Error)]
#[error("{}", failure.message)]
pub struct RunError {
    /// What went wrong.
    pub failure: Failure,
    /// Whether it is only that another control plane has the workspace.
    pub taken: bool,
}

impl From<ControlError> for RunError {
    fn from(error: ControlError) -> Self {
        Self { taken: false, failure: error.failure }
    }
}

impl From<LockError> for RunError {
    fn from(error: LockError) -> Self {
        Self { taken: matches!(error, LockError::Taken(_)), failure: error.into_failure() }
    }
}

/// Runs the control plane of a workspace until `stop` completes or a client ends it. `targets` is called once the
/// workspace is this process's. To be awaited on a single-threaded runtime.
///
/// # Errors
/// Returns an error if another control plane has the workspace, or if something of it cannot be opened or served.
pub async fn run(
    config: Config,
    targets: impl FnOnce(&Workspace, &Store) -> std::io::Result<Targets>,
    stop: impl Future<Output = ()>,
) -> std::result::Result<(), RunError> {
    let workspace = config.workspace;
    let _lock = workspace.lock()?;
    let db = Db::open(&workspace.database()).await?;
    step("the workspace is open");
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
    let about = About { workspace, version: config.version, build: config.build, metrics, registry };
    let control = Control { about: Arc::new(about), db, services, operations, gateway, stop: stopped };
    // Ends with the gateway; dropped, and so aborted, if the gateway is to go on.
    let mut supervisor = JoinSet::new();
    supervisor.spawn(supervised);
    // Clients that can connect find everything in its place.
    control.operations.resume().await?;
    step("operations go on");
    control.services.reconcilers.start().await.map_err(ControlError::from)?;
    keep_house(&control, &tasks);
    let mark = control.about.workspace.stopped_mark();
    let _ = std::fs::remove_file(&mark);
    let how = listeners::serve(&control, tcp, stop).await?;
    if how == Shutdown::All {
        // Commands that wait see it, and start nothing again.
        let _ = std::fs::write(&mark, "");
    }
    tasks.close();
    if tokio::time::timeout(TASKS_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("{} tasks are still under way: the next control plane continues them", tasks.len());
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

/// Keeps the index and the backup up to date, and removes what belongs to no service.
fn keep_house(control: &Control, tasks: &TaskTracker) {
    let (models, db) = (Arc::clone(&control.services.models), control.db.clone());
    let reconcilers = control.services.reconcilers.clone();
    let until = control.stop.token();
    tasks.spawn(until.clone().run_until_cancelled_owned(async move { models.keep_index().await }));
    tasks.spawn(until.clone().run_until_cancelled_owned(db.keep_backup()));
    tasks.spawn(until.run_until_cancelled_owned(async move {
        if let Err(error) = reconcilers.remove_orphans().await {
            tracing::warn!("cannot remove what belongs to no service: {:?}", error.failure);
        }
    }));
}

/// Ends every replica; what is wanted stays wanted.
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
