//! The control plane's life, and what all its parts share.

use crate::api;
use crate::db::{Db, Result};
use crate::distribution::Distribution;
use crate::gateway::{Gateway, GatewayChange};
use crate::metrics::Metrics;
use crate::operations::Running;
use crate::problem::Problem;
use crate::reconcile::Actor;
use crate::targets::{TargetTable, Targets};
use crate::workspace::Workspace;
use drisse_core::{Replica, ServiceName, ServiceSpec, Target, step};
use drisse_net::{Build, Door, Front, Handler, Limits, Listener, Tls, bind_tcp, bind_unix, serve_few};
use drisse_registry::Store;
use drisse_wire::control::{Failure, Shutdown};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// The status of a workspace that another control plane has (RFC 4918, section 11.3: locked).
pub(crate) const TAKEN: u16 = 423;

/// A thousand services that all start at once take turns: each round needs some memory.
const ROUNDS: usize = 64;

/// Replicas that were told to end are waited for at most this long.
const DOWN_PATIENCE: Duration = Duration::from_secs(40);

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
pub struct ControlError {
    /// What went wrong.
    pub failure: Failure,
    /// Whether it is only that another control plane has the workspace.
    pub taken: bool,
}

impl From<Problem> for ControlError {
    fn from(problem: Problem) -> Self {
        Self { taken: problem.status == TAKEN, failure: problem.failure }
    }
}

/// What all parts share.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) db: Db,
    pub(crate) store: Store,
    pub(crate) workspace: Workspace,
    pub(crate) targets: TargetTable,
    pub(crate) gateway: Gateway,
    pub(crate) version: &'static str,
    pub(crate) build: Build,
    /// Where `/metrics` are.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where the store is read as from a registry.
    pub(crate) registry: Option<SocketAddr>,
    pub(crate) runtime: Handle,
    pub(crate) models_changed: Notify,
    /// Rounds of services at a time.
    pub(crate) rounds: tokio::sync::Semaphore,
    /// Held by whoever changes which models there are, or relies on one being there.
    pub(crate) models_lock: tokio::sync::Mutex<()>,
    actors: Mutex<HashMap<String, Actor>>,
    running: Mutex<HashMap<i64, Arc<Running>>>,
    /// The operation that changes each service now.
    changing: Mutex<HashMap<String, i64>>,
    /// Services that are forgotten though their target does not answer.
    forced: Mutex<BTreeSet<String>>,
    stop: watch::Sender<Option<Shutdown>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the control plane of a workspace until `stop` completes or it is told to end. `targets` is
/// called once the workspace is this process's.
pub async fn run(
    config: Config,
    targets: impl FnOnce(&Workspace, &Store) -> std::io::Result<Targets>,
    stop: impl Future<Output = ()>,
) -> std::result::Result<(), ControlError> {
    let workspace = config.workspace;
    let _lock = workspace.lock()?;
    let db = Db::open(&workspace.database()).await?;
    step("the workspace is open");
    let store = Store::open(&workspace.store()).map_err(Problem::from)?;
    let tcp = config.tcp.of(db.setting("control_api").await?.flatten());
    let metrics = config.metrics.of(db.setting("metrics").await?.flatten());
    let registry = config.registry.of(db.setting("registry").await?.flatten());
    let (gateway, supervised) =
        Gateway::open(&workspace, config.program, config.build.clone(), &db, config.gateway).await?;
    let targets = targets(&workspace, &store)
        .map_err(|error| Problem::failed("cannot open the targets").because(&error))?;
    let targets = TargetTable::open(targets, &db).await?;
    let control = Arc::new(Control {
        db,
        store,
        workspace,
        targets,
        gateway,
        version: config.version,
        build: config.build,
        metrics,
        registry,
        runtime: Handle::current(),
        models_changed: Notify::new(),
        rounds: tokio::sync::Semaphore::new(ROUNDS),
        models_lock: tokio::sync::Mutex::default(),
        actors: Mutex::default(),
        running: Mutex::default(),
        changing: Mutex::default(),
        forced: Mutex::default(),
        stop: watch::Sender::new(None),
    });
    let gateway = tokio::spawn(supervised);
    // Whoever can connect finds everything in its place.
    control.resume().await?;
    step("operations go on");
    control.reconcile_all().await?;
    tokio::spawn(Arc::clone(&control).keep_index());
    tokio::spawn(control.db.clone().keep_backup());
    let orphans = Arc::clone(&control);
    tokio::spawn(async move {
        if let Err(problem) = orphans.remove_orphans().await {
            tracing::warn!("cannot remove what belongs to no service: {:?}", problem.failure);
        }
    });

    let _ = std::fs::remove_file(control.workspace.stopped_mark());
    let how = control.serve(tcp, stop).await?;
    if how == Shutdown::All {
        // Whoever waits for something is told, and starts nothing again.
        let _ = std::fs::write(control.workspace.stopped_mark(), "");
        control.gateway.stop();
        // An error says that it has ended.
        let _ = gateway.await;
        control.stop_replicas().await;
        let _ = control.write_index().await;
    }
    control.db.back_up().await;
    control.db.close().await;
    Ok(())
}

/// Answers requests where that is wanted: what is served, as the flag of `drisse up` names it, and the address.
fn serve_plain<H: Handler>(
    wanted: Option<(&str, SocketAddr)>,
    handler: H,
    ends: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + use<H>> {
    let serve = |(what, address)| {
        let serve = || -> std::result::Result<_, Box<dyn std::error::Error>> {
            Ok(serve_few(Listener::Tcp(bind_tcp(address)?), handler, ends)?)
        };
        serve().map_err(|error| {
            Problem::invalid(format!("cannot serve --{what}")).because(&*error).hint(format!(
                "choose another address: `drisse up --{what} ADDRESS:PORT`, or none: `--no-{what}`"
            ))
        })
    };
    let served = wanted.map(serve).transpose()?;
    Ok(async move {
        match served {
            Some(served) => served.await,
            None => std::future::pending().await,
        }
    })
}

impl Control {
    /// Serves the control API until told to end, and says how.
    async fn serve(
        self: &Arc<Self>,
        tcp: Option<TcpApi>,
        stop: impl Future<Output = ()>,
    ) -> Result<Shutdown> {
        let unserved = |error: &(dyn std::error::Error + 'static)| {
            Problem::failed("cannot serve the control API").because(error)
        };
        drisse_net::remove_sockets(&self.workspace.sockets, "control");
        let listener = bind_unix(&self.workspace.control_socket()).map_err(|error| unserved(&error))?;
        let (end, ends) = watch::channel(false);
        let unix = api::Api::local(self);
        let unix = serve_few(Listener::Unix(listener), unix, ends).map_err(|error| unserved(&error))?;
        let mut told = self.stop.subscribe();
        let metrics = self.metrics.map(|address| ("metrics", address));
        let metrics = serve_plain(metrics, Metrics::new(self), end.subscribe())?;
        let registry = self.registry.map(|address| ("registry", address));
        let registry = serve_plain(registry, Distribution(Arc::clone(self)), end.subscribe())?;
        let remote = self.serve_tcp(tcp.clone())?;
        // Only what could be bound is tried again at the next start.
        self.db.keep_setting("control_api", tcp.as_ref()).await?;
        self.db.keep_setting("metrics", self.metrics.as_ref()).await?;
        self.db.keep_setting("registry", self.registry.as_ref()).await?;
        tracing::info!(workspace = %self.workspace.root.display(), build = %self.build, "the control plane is up");
        let how = tokio::select! {
            () = unix => Shutdown::Handover,
            () = remote => Shutdown::Handover,
            () = metrics => Shutdown::Handover,
            () = registry => Shutdown::Handover,
            how = told.wait_for(Option::is_some) => how.ok().and_then(|how| *how).unwrap_or(Shutdown::Handover),
            // A signal ends this process alone: what runs goes on, and the next control plane takes it over.
            () = stop => Shutdown::Handover,
        };
        self.stop.send_replace(Some(how));
        let _ = end.send(true);
        let _ = std::fs::remove_file(self.workspace.control_socket());
        Ok(how)
    }

    fn serve_tcp(self: &Arc<Self>, tcp: Option<TcpApi>) -> Result<impl Future<Output = ()> + use<>> {
        let front = tcp.map(|tcp| -> Result<_> {
            if tcp.tls.is_none() && !tcp.address.ip().is_loopback() {
                return Err(Problem::invalid("the control API is served beyond this machine only over TLS")
                    .hint("give --control-cert and --control-key, or listen on 127.0.0.1"));
            }
            let tls = tcp.tls.map(|(certificate, key)| Tls::open(&certificate, &key)).transpose();
            let tls =
                tls.map_err(|error| Problem::invalid("cannot serve the control API").because(&error))?;
            let listener = bind_tcp(tcp.address)
                .map_err(|error| Problem::invalid("cannot serve the control API").because(&error))?;
            let limits = Limits {
                max_connections: 256,
                header_timeout: Duration::from_secs(30),
                write_timeout: Duration::from_secs(30),
                max_head: 16 << 10,
                drain_timeout: Duration::from_secs(1),
                threads: 1,
            };
            let door = if tls.is_some() { Door::Tls } else { Door::Tcp };
            let api = api::Api::remote(self, door)?;
            let listeners = vec![Listener::Tcp(listener)];
            Ok((Front { listeners, tls: tls.map(Arc::new), limits, open: Default::default() }, api))
        });
        let front = front.transpose()?;
        let mut stopping = self.stopping();
        Ok(async move {
            let Some((front, api)) = front else { return std::future::pending().await };
            let stop = async { drop(stopping.wait_for(Option::is_some).await) };
            if let Err(error) = front.serve(|| api.clone(), stop).await {
                tracing::error!("the control API over TCP ended: {error}");
            }
        })
    }

    /// Ends every replica; what is wanted stays wanted.
    async fn stop_replicas(&self) {
        for target in self.targets.all() {
            let ended = tokio::time::timeout(DOWN_PATIENCE, stop_all(&*target)).await;
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("cannot stop replicas: {error}"),
                Err(_) => tracing::error!("replicas did not end in time"),
            }
        }
    }

    /// Runs `work`, which blocks on the disk, on the store.
    pub(crate) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> T {
        let store = self.store.clone();
        drisse_net::blocking(move || work(&store)).await
    }

    pub(crate) fn end(&self, how: Shutdown) {
        self.stop.send_replace(Some(how));
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<Option<Shutdown>> {
        self.stop.subscribe()
    }

    pub(crate) fn actors(&self) -> MutexGuard<'_, HashMap<String, Actor>> {
        lock(&self.actors)
    }

    pub(crate) fn forget_actor(&self, name: &ServiceName) {
        self.actors().remove(name.as_str());
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, HashMap<i64, Arc<Running>>> {
        lock(&self.running)
    }

    pub(crate) fn is_changing(&self, service: &str) -> bool {
        lock(&self.changing).contains_key(service)
    }

    /// Takes a service for an operation; refused while another one has it.
    pub(crate) fn claim(&self, service: &str, operation: i64) -> Result<()> {
        let mut changing = lock(&self.changing);
        match changing.get(service) {
            // It has only just begun, and has no number yet.
            Some(0) => {
                let message = format!("service `{service}` is being changed by another command");
                Err(Problem::conflict(message).hint("wait for it: `drisse operations` lists what runs"))
            }
            Some(other) => {
                let message = format!("service `{service}` is being changed by operation {other}");
                let hint = format!("wait for it (`drisse operations show {other}`), or cancel it");
                Err(Problem::conflict(message).hint(hint))
            }
            None => {
                changing.insert(service.to_owned(), operation);
                Ok(())
            }
        }
    }

    pub(crate) fn name_claim(&self, service: &str, operation: i64) {
        if let Some(claim) = lock(&self.changing).get_mut(service) {
            *claim = operation;
        }
    }

    pub(crate) fn release(&self, service: &str) {
        lock(&self.changing).remove(service);
        lock(&self.forced).remove(service);
    }

    /// Has a service forgotten though its target does not answer.
    pub(crate) fn force(&self, service: &str) {
        lock(&self.forced).insert(service.to_owned());
    }

    pub(crate) fn is_forced(&self, service: &str) -> bool {
        lock(&self.forced).contains(service)
    }
}

async fn stop_all(target: &dyn Target) -> std::result::Result<(), drisse_core::TargetError> {
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
