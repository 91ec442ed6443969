//! The tasks of all services, with handles to wake and watch them.

use crate::reconciler::{Reconciler, TARGET_TIMEOUT};
use crate::{Desired, Observed, ReconcileError, Routes};
use drisse_core::{ServiceName, Target, lock};
use futures_util::StreamExt;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The number of concurrent rounds. Each needs some memory, and a thousand services may start at once.
const ROUNDS: usize = 64;

/// The number of queued events of a service. An operation that falls behind misses older ones.
const EVENTS: usize = 32;

/// The ports that the reconcilers depend on.
#[derive(Clone, Debug)]
pub struct Ports {
    /// The desired state.
    pub desired: Arc<dyn Desired>,
    /// The routes of the gateways.
    pub routes: Arc<dyn Routes>,
    /// The targets on which services run.
    pub targets: Arc<dyn Targets>,
}

/// The port to the targets, by name. Both methods return at once, and may be called from any thread.
pub trait Targets: Debug + Send + Sync {
    /// Returns the target with this name.
    ///
    /// # Errors
    /// Returns an error if the target does not exist.
    fn get(&self, name: &str) -> Result<Arc<dyn Target>, ReconcileError>;

    /// Returns all targets.
    fn all(&self) -> Vec<Arc<dyn Target>>;
}

/// A handle to the task of a service. Clones refer to the same task.
#[derive(Clone, Debug)]
pub struct Handle {
    wake: Arc<Notify>,
    observed: watch::Receiver<Observed>,
    events: broadcast::Sender<String>,
}

/// The tasks of all services. Clones share the tasks.
///
/// ```
/// use drisse_reconcile::memory::{MemoryDesired, MemoryRoutes, MemoryTargets};
/// use drisse_reconcile::{Ports, Reconcilers};
/// # use std::sync::Arc;
/// # use tokio_util::{sync::CancellationToken, task::TaskTracker};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), drisse_reconcile::ReconcileError> {
/// let (desired, routes) = (Arc::new(MemoryDesired::default()), Arc::new(MemoryRoutes::default()));
/// let ports = Ports { desired, routes, targets: Arc::new(MemoryTargets::default()) };
/// let reconcilers = Reconcilers::new(ports, TaskTracker::new(), CancellationToken::new());
/// reconcilers.start().await?;
/// assert!(reconcilers.all().is_empty(), "no service is desired");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Reconcilers(Arc<Inner>);

/// The state that the tasks share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) ports: Ports,
    pub(crate) rounds: Semaphore,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
    /// The runtime of all tasks. A task may be started from the runtime of a server.
    runtime: Runtime,
    handles: Mutex<HashMap<ServiceName, Handle>>,
}

impl Handle {
    /// Starts a round of the service soon.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Returns a receiver of what the last round observed, which changes with each round.
    pub fn observed(&self) -> watch::Receiver<Observed> {
        self.observed.clone()
    }

    /// Returns a receiver of the progress messages from now on.
    pub fn events(&self) -> broadcast::Receiver<String> {
        self.events.subscribe()
    }
}

impl Reconcilers {
    /// Returns an empty set of tasks. Tasks will run on the current tokio runtime, belong to `tasks`, and end once
    /// `stop` is canceled.
    pub fn new(ports: Ports, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let (rounds, handles) = (Semaphore::new(ROUNDS), Mutex::default());
        Self(Arc::new(Inner { ports, rounds, stop, tasks, runtime: Runtime::current(), handles }))
    }

    /// Starts a task for every desired service, and wakes tasks when their targets report changes.
    ///
    /// # Errors
    /// Returns an error if the services cannot be listed.
    pub async fn start(&self) -> Result<(), ReconcileError> {
        for target in self.0.ports.targets.all() {
            self.listen_to(&*target);
        }
        for name in self.0.ports.desired.services().await? {
            self.of(&name);
        }
        Ok(())
    }

    /// Returns the task of a service. Starts it if it does not run.
    pub fn of(&self, name: &ServiceName) -> Handle {
        let start = || self.start_one(name);
        lock(&self.0.handles).entry(name.clone()).or_insert_with(start).clone()
    }

    /// Returns the task of a service; `None` if it does not run.
    pub fn get(&self, name: &ServiceName) -> Option<Handle> {
        lock(&self.0.handles).get(name).cloned()
    }

    /// Returns the tasks of all services.
    pub fn all(&self) -> Vec<(ServiceName, Handle)> {
        lock(&self.0.handles).iter().map(|(name, handle)| (name.clone(), handle.clone())).collect()
    }

    /// Wakes services when `target` reports that they have changed.
    pub fn listen_to(&self, target: &dyn Target) {
        let (shared, mut changes) = (Arc::clone(&self.0), target.changes());
        let listen = async move {
            loop {
                tokio::select! {
                    changed = changes.next() => {
                        let Some(name) = changed else { return };
                        let handle = lock(&shared.handles).get(&name).cloned();
                        handle.iter().for_each(Handle::wake);
                    }
                    () = shared.stop.cancelled() => return,
                }
            }
        };
        self.0.tasks.spawn_on(listen, &self.0.runtime);
    }

    /// Removes routes and replicas that belong to no service: a service may have been deleted while the control plane
    /// was being killed.
    ///
    /// # Errors
    /// Returns an error if a port fails. A target that does not answer is skipped.
    pub async fn remove_orphans(&self) -> Result<(), ReconcileError> {
        let Ports { desired, routes, targets } = &self.0.ports;
        let known: BTreeSet<_> = desired.services().await?.into_iter().collect();
        // A service may have been deployed since.
        let is_orphan = async |name: &ServiceName| {
            Ok::<_, ReconcileError>(!known.contains(name) && desired.service(name).await?.is_none())
        };
        for name in routes.list().await? {
            if is_orphan(&name).await? {
                routes.remove(&name).await?;
            }
        }
        for target in targets.all() {
            let Ok(Ok(all)) = timeout(TARGET_TIMEOUT, target.list(None)).await else { continue };
            let names: BTreeSet<_> = all.into_iter().map(|replica| replica.service).collect();
            for name in &names {
                if is_orphan(name).await? {
                    tracing::warn!(service = %name, "removing replicas of a service that does not exist");
                    target.remove(name).await?;
                }
            }
        }
        Ok(())
    }

    fn start_one(&self, name: &ServiceName) -> Handle {
        let (observed, watched) = watch::channel(Observed::default());
        let (events, _) = broadcast::channel(EVENTS);
        let handle = Handle { wake: Arc::default(), observed: watched, events: events.clone() };
        let task = Reconciler {
            shared: Arc::clone(&self.0),
            name: name.clone(),
            wake: Arc::clone(&handle.wake),
            observed,
            events,
            routed: None,
            generation: 0,
            draining: BTreeSet::new(),
            complete: false,
        };
        self.0.tasks.spawn_on(task.run(), &self.0.runtime);
        handle
    }
}

impl Inner {
    /// Forgets the task of a deleted service.
    pub(crate) fn forget(&self, name: &ServiceName) {
        lock(&self.handles).remove(name);
    }
}
