//! The tasks of all services, and how others wake and watch them.

use crate::reconciler::Reconciler;
use crate::{Desired, Observed, ReconcileError, Routes};
use drisse_core::{ServiceName, Target};
use futures_util::StreamExt;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Rounds at a time: a thousand services that all start at once take turns, because each round needs some memory.
const ROUNDS: usize = 64;

/// Events that an operation may be behind; there is one such channel per service.
const EVENTS: usize = 32;

/// What the reconcilers depend on.
#[derive(Clone, Debug)]
pub struct Ports {
    /// What is wanted.
    pub desired: Arc<dyn Desired>,
    /// Where requests go.
    pub routes: Arc<dyn Routes>,
    /// Where services run.
    pub targets: Arc<dyn Targets>,
}

/// The targets by name.
pub trait Targets: Debug + Send + Sync {
    /// Returns the target of this name.
    ///
    /// # Errors
    /// Returns an error if there is no such target.
    fn get(&self, name: &str) -> Result<Arc<dyn Target>, ReconcileError>;

    /// Returns all targets.
    fn all(&self) -> Vec<Arc<dyn Target>>;
}

/// A service's task, as others see it.
#[derive(Clone, Debug)]
pub struct Handle {
    wake: Arc<Notify>,
    observed: watch::Receiver<Observed>,
    events: broadcast::Sender<String>,
}

/// The tasks of all services. Clones are the same tasks.
#[derive(Clone, Debug)]
pub struct Reconcilers(Arc<Shared>);

/// What the tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Ports,
    pub(crate) rounds: Semaphore,
    pub(crate) stop: CancellationToken,
    tasks: TaskTracker,
    /// Where tasks run, on whichever thread they are started: servers have runtimes of their own.
    runtime: Runtime,
    handles: Mutex<HashMap<ServiceName, Handle>>,
}

impl Handle {
    /// Has the service looked at soon.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// What the last round observed, and a way to wait for the next.
    pub fn observed(&self) -> watch::Receiver<Observed> {
        self.observed.clone()
    }

    /// Events from now on, for people who wait.
    pub fn events(&self) -> broadcast::Receiver<String> {
        self.events.subscribe()
    }
}

impl Reconcilers {
    /// No tasks yet. Those to come run on the current runtime, are owned by `tasks`, and end once `stop` is cancelled.
    pub fn new(ports: Ports, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let (rounds, handles) = (Semaphore::new(ROUNDS), Mutex::default());
        Self(Arc::new(Shared { ports, rounds, stop, tasks, runtime: Runtime::current(), handles }))
    }

    /// Starts a task for every service, and wakes them when their targets report changes.
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

    /// Returns the task of a service, and starts it if it does not run.
    pub fn of(&self, name: &ServiceName) -> Handle {
        let start = || self.start_one(name);
        self.0.handles().entry(name.clone()).or_insert_with(start).clone()
    }

    /// Returns the task of a service; `None` if it does not run.
    pub fn get(&self, name: &ServiceName) -> Option<Handle> {
        self.0.handles().get(name).cloned()
    }

    /// Returns the tasks of all services.
    pub fn all(&self) -> Vec<(ServiceName, Handle)> {
        self.0.handles().iter().map(|(name, handle)| (name.clone(), handle.clone())).collect()
    }

    /// Wakes services when `target` reports that they have changed.
    pub fn listen_to(&self, target: &dyn Target) {
        let (shared, mut changes) = (Arc::clone(&self.0), target.changes());
        let listen = async move {
            loop {
                tokio::select! {
                    changed = changes.next() => {
                        let Some(name) = changed else { return };
                        let handle = shared.handles().get(&name).cloned();
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
    /// Returns an error if a port fails. A target that does not answer is left out.
    pub async fn remove_orphans(&self) -> Result<(), ReconcileError> {
        let known: BTreeSet<_> = self.0.ports.desired.services().await?.into_iter().collect();
        crate::orphans::remove(&self.0.ports, &known).await
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

impl Shared {
    fn handles(&self) -> MutexGuard<'_, HashMap<ServiceName, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the task of a service that is gone.
    pub(crate) fn forget(&self, name: &ServiceName) {
        self.handles().remove(name);
    }
}
