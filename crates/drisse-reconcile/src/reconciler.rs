//! One service's task: rounds, one after the other, each from the beginning.

use crate::death::explain;
use crate::document::{document, summary};
use crate::reconcilers::Inner;
use crate::{Deletion, DesiredService, Observed, ReconcileError, RoundError, Status};
use drisse_core::{
    Event, EventSink, Replica, ReplicaId, ReplicaState, ServiceName, ServiceSpec, Target, crash_point,
    failure, routes,
};
use drisse_wire::control::ServiceState;
use drisse_wire::routes::RouteDocument;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{sleep, timeout};

/// A service is looked at this often even if nothing changes.
const RESYNC: Duration = Duration::from_secs(300);

/// The pause after a round that failed, doubled with each further failure …
const RETRY: Duration = Duration::from_millis(100);

/// … up to this.
const MAX_RETRY: Duration = Duration::from_secs(10);

/// The pause before asking again whether draining replicas have answered, or keys are confirmed.
const POLL: Duration = Duration::from_millis(20);

/// A target that does not answer for this long is reported as failing.
pub(crate) const TARGET_TIMEOUT: Duration = Duration::from_secs(15);

/// A replica that is not ready by then is replaced.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Sends events of one service to the operations that wait for it.
struct Events<'a>(&'a broadcast::Sender<String>);

impl EventSink for Events<'_> {
    fn event(&self, event: Event) {
        // An error says that no operation waits.
        let _ = self.0.send(event.0);
    }
}

/// One service's task.
pub(crate) struct Reconciler {
    pub(crate) shared: Arc<Inner>,
    pub(crate) name: ServiceName,
    pub(crate) wake: Arc<Notify>,
    pub(crate) observed: watch::Sender<Observed>,
    pub(crate) events: broadcast::Sender<String>,
    /// The routes that the gateways have confirmed; `None` if not known.
    pub(crate) routed: Option<RouteDocument>,
    /// The generation that was wanted when the last round began.
    pub(crate) generation: u64,
    /// Replicas that receive no new requests and have not answered all they have.
    pub(crate) draining: BTreeSet<ReplicaId>,
    /// Whether the target reported the service as complete in the last round.
    pub(crate) complete: bool,
}

impl Reconciler {
    /// Runs rounds until the service is gone or the reconcilers are stopped.
    pub(crate) async fn run(mut self) {
        let mut retry = RETRY;
        let stop = self.shared.stop.clone();
        loop {
            let shared = Arc::clone(&self.shared);
            let turn = shared.rounds.acquire().await;
            // On the heap only while it runs: most services have nothing to do most of the time.
            let round = Box::pin(self.round()).await;
            drop(turn);
            let again = match round {
                Ok(again) => {
                    retry = RETRY;
                    let left = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default();
                    // At most RESYNC: the clock may have been set back a day.
                    again.map_or(RESYNC, left).min(RESYNC)
                }
                Err(error) => {
                    self.failed(error);
                    retry = (retry * 2).min(MAX_RETRY);
                    retry
                }
            };
            if self.observed.borrow().removed {
                self.shared.forget(&self.name);
                return;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(again.max(Duration::from_millis(1))) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn failed(&self, error: ReconcileError) {
        let ReconcileError { failure, permanent } = error;
        tracing::warn!(service = %self.name, causes = failure.causes.join(": "), "{}", failure.message);
        let error = RoundError { generation: self.generation, failure, permanent };
        self.observed.send_modify(|observed| {
            observed.converged = false;
            observed.error = Some(error);
        });
    }

    /// Runs one round: lists the replicas, updates the routes and applies the desired state. Returns when the next
    /// round is due even if nothing changes.
    async fn round(&mut self) -> Result<Option<SystemTime>, ReconcileError> {
        let ports = &self.shared.ports;
        let Some(service) = ports.desired.service(&self.name).await? else {
            self.observed.send_modify(|observed| observed.removed = true);
            return Ok(None);
        };
        self.complete &= self.generation == service.generation;
        self.generation = service.generation;
        let target = ports.targets.get(&service.target)?;
        if let Some(deletion) = service.deletion {
            self.remove(&*target, deletion).await?;
            return Ok(None);
        }
        if self.routed.is_none() {
            self.routed = ports.routes.get(&self.name).await?;
        }
        let mut spec = ServiceSpec {
            service: self.name.clone(),
            wanted: if service.active { service.wanted.clone() } else { vec![] },
            in_use: self.in_use(),
            start_timeout: START_TIMEOUT,
        };
        let have = self.list(&*target).await?;
        // A replica that receives requests and was only just found again is about to report that it is ready.
        let found = |replica: &Replica| {
            matches!(replica.state, ReplicaState::Starting { .. }) && spec.in_use.contains(&replica.id)
        };
        if !have.iter().any(found) {
            let serving = self.as_scaled(&*target, &spec, &have);
            self.route(&service, &serving, &have).await?;
        }
        spec.in_use = self.in_use();
        let routed = spec.in_use.clone();
        spec.in_use.extend(self.draining.iter().cloned());
        crash_point("the gateway knows the routes");
        let applied = target.apply(&spec, &Events(&self.events)).await;
        spec.in_use = routed;
        let have = self.list(&*target).await?;
        crash_point("replicas are started and stopped");
        self.complete = applied.as_ref().is_ok_and(|applied| applied.complete);
        let serving = self.as_scaled(&*target, &spec, &have);
        let confirmed = self.observe(&service, &serving, have).await?;
        let again = applied?.again;
        let soon = (!self.draining.is_empty() || !confirmed).then(|| SystemTime::now() + POLL);
        Ok([again, soon].into_iter().flatten().min())
    }

    /// Returns the desired state. If the target scales services by itself, the numbers of replicas are those of the
    /// ready ones, and at least the wanted ones until the target reports the service as complete.
    fn as_scaled(&self, target: &dyn Target, spec: &ServiceSpec, have: &[Replica]) -> ServiceSpec {
        let mut spec = spec.clone();
        if target.capabilities().scales_itself {
            for wanted in &mut spec.wanted {
                let revision = wanted.revision.revision;
                let ready = have.iter().filter(|replica| replica.revision == revision && replica.is_ready());
                let ready = u32::try_from(ready.count()).unwrap_or(u32::MAX);
                wanted.replicas = if self.complete { ready } else { ready.max(wanted.replicas) };
            }
        }
        spec
    }

    async fn list(&self, target: &dyn Target) -> Result<Vec<Replica>, ReconcileError> {
        let listed = timeout(TARGET_TIMEOUT, target.list(Some(&self.name))).await;
        let silent = |_| ReconcileError::new(format!("target `{}` does not answer", target.kind()));
        Ok(listed.map_err(silent)??)
    }

    /// Returns the replicas that the routes name.
    fn in_use(&self) -> BTreeSet<ReplicaId> {
        let replicas = self.routed.iter().flat_map(|document| &document.revisions);
        replicas.flat_map(|revision| &revision.replicas).filter_map(|r| ReplicaId::new(&r.id)).collect()
    }

    /// Puts the routes in force if they have changed, and waits until they are kept.
    async fn route(
        &mut self,
        service: &DesiredService,
        spec: &ServiceSpec,
        have: &[Replica],
    ) -> Result<(), ReconcileError> {
        let groups = routes(spec, have);
        let [wanted, ..] = &*service.wanted else {
            return Err(ReconcileError::new(format!("no revision of service `{}` is wanted", self.name)));
        };
        // Keys and time limits are those of the revision that serves.
        let other = groups.first().filter(|group| group.revision != wanted.revision.revision);
        let other = match other {
            Some(group) => self.shared.ports.desired.revision(&self.name, group.revision).await?,
            None => None,
        };
        let serving = other.as_ref().unwrap_or(&wanted.revision);
        let generation = self.routed.as_ref().map_or(0, |document| document.generation);
        let mut document = document(&self.name, service, serving, &groups, generation);
        let same = self.routed.as_ref() == Some(&document);
        if same && self.draining.is_empty() {
            return Ok(());
        }
        document.generation += u64::from(!same);
        // If this fails, the routes in force are read again in the next round.
        let before = self.routed.take();
        let acknowledged = self.shared.ports.routes.put(&document).await?;
        self.draining = acknowledged.draining.iter().filter_map(|id| ReplicaId::new(id)).collect();
        if same {
            self.routed = before;
            return Ok(());
        }
        if let Some(text) = summary(&document) {
            Events(&self.events).event(Event(text));
        }
        self.routed = Some(document);
        Ok(())
    }

    /// Publishes what was observed. Returns whether every serving replica has confirmed its keys.
    async fn observe(
        &mut self,
        service: &DesiredService,
        spec: &ServiceSpec,
        have: Vec<Replica>,
    ) -> Result<bool, ReconcileError> {
        let wanted = |replica: &&Replica| {
            let is = |revision: u64| service.wanted.iter().any(|wanted| wanted.revision.revision == revision);
            is(replica.revision) && !replica.outdated
        };
        let serving = |replica: &&Replica| replica.is_ready() && spec.in_use.contains(&replica.id);
        let ready = have.iter().filter(wanted).filter(serving).count();
        let open = service.wanted.iter().all(|wanted| wanted.revision.keys.is_empty());
        let confirmed = open
            || have
                .iter()
                .filter(serving)
                .all(|replica| matches!(replica.state, ReplicaState::Ready { keys_confirmed: true, .. }));
        let replicas: u32 = spec.wanted.iter().map(|wanted| wanted.replicas).sum();
        let complete = if service.active {
            self.complete && ready == replicas as usize && spec.in_use.len() == ready
        } else {
            spec.in_use.is_empty() && !have.iter().any(Replica::is_up)
        };
        let converged = complete && confirmed;
        let status = status(service, converged, &have);
        if status != service.status {
            self.shared.ports.desired.report(&self.name, service.generation, &status).await?;
        }
        self.observed.send_replace(Observed {
            generation: service.generation,
            target: service.target.clone(),
            converged,
            removed: false,
            hopeless: failure(spec, &have).cloned(),
            error: None,
            replicas: have,
            in_use: spec.in_use.clone(),
            wanted: replicas,
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
        });
        Ok(confirmed)
    }

    /// Deletes the service: removes its routes, then its replicas, then its desired state.
    async fn remove(&mut self, target: &dyn Target, deletion: Deletion) -> Result<(), ReconcileError> {
        let ports = &self.shared.ports;
        ports.routes.remove(&self.name).await?;
        crash_point("a service has no routes");
        match target.remove(&self.name).await {
            Ok(()) => {}
            Err(error) if deletion == Deletion::Forced => {
                let text = format!("what is left on the target is removed once it answers again: {error}");
                tracing::warn!(service = %self.name, "{text}");
                Events(&self.events).event(Event(text));
            }
            Err(error) => return Err(error.into()),
        }
        crash_point("a service has no replicas");
        ports.desired.forget(&self.name).await?;
        crash_point("a service is forgotten");
        self.observed.send_modify(|observed| observed.removed = true);
        Ok(())
    }
}

/// Returns the status to report. While an operation changes the service, the operation decides.
fn status(service: &DesiredService, converged: bool, have: &[Replica]) -> Status {
    let kept = &service.status;
    if service.in_operation || kept.state == ServiceState::Failed {
        return kept.clone();
    }
    if converged {
        return Status { state: ServiceState::Ready, error: None };
    }
    let death = have.iter().filter_map(Replica::death).max_by_key(|death| death.at);
    Status { state: ServiceState::Degraded, error: death.map(explain) }
}
