//! Bringing what is there to what is wanted: one task per service, woken by changes, each round from
//! the beginning, so that it does not matter what was missed.

use crate::control::Control;
use crate::db::Result;
use crate::db::services::{RevisionRow, ServiceRow};
use crate::{keys, room};
use drisse_core::{
    Death, Environment, Event, EventSink, Replica, ReplicaId, ReplicaState, RevisionSpec, ServiceName,
    ServiceSpec, Serving, Target, Trust, Wanted, failure, routes, step,
};
use drisse_net::blocking;
use drisse_wire::control::{Failure, ServiceState};
use drisse_wire::routes::{RouteDocument, RouteReplica, RouteRevision};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, broadcast, watch};

/// Without any change a service is still looked at this often.
const RESYNC: Duration = Duration::from_secs(300);

/// After a round that failed the next one waits this long, doubled each time …
const RETRY: Duration = Duration::from_millis(100);

/// … up to this.
const MAX_RETRY: Duration = Duration::from_secs(10);

/// How soon it is asked again whether replicas have answered all they got, or have confirmed their keys.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A target that says nothing for this long is told as failing.
const PATIENCE: Duration = Duration::from_secs(15);

/// Events that somebody who waits may be behind; there is one such channel per service.
const EVENTS: usize = 32;

/// A replica that is not ready by then is replaced.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// A service's task, as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) wake: Arc<Notify>,
    pub(crate) seen: watch::Receiver<Seen>,
    pub(crate) events: broadcast::Sender<String>,
}

/// What the last round saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Of what was wanted then.
    pub(crate) generation: u64,
    /// Where it is to run.
    pub(crate) target: String,
    /// Whether everything is as it was wanted.
    pub(crate) converged: bool,
    /// Whether the service is gone.
    pub(crate) removed: bool,
    /// Why waiting is in vain.
    pub(crate) hopeless: Option<Death>,
    /// Why the round could not be finished …
    pub(crate) error: Option<Failure>,
    /// … and what was wanted when it began.
    pub(crate) error_of: u64,
    /// Whether another round cannot help.
    pub(crate) permanent: bool,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) in_use: BTreeSet<ReplicaId>,
    /// Replicas of the wanted revision that are to take requests …
    pub(crate) wanted: u32,
    /// … and those that do.
    pub(crate) ready: u32,
}

/// Events of one service, for whoever waits for it.
struct Told<'a>(&'a broadcast::Sender<String>);

impl EventSink for Told<'_> {
    fn event(&self, event: Event) {
        // Nobody waiting is fine.
        let _ = self.0.send(event.0);
    }
}

/// One service's task.
pub(crate) struct Reconciler {
    control: Arc<Control>,
    name: ServiceName,
    wake: Arc<Notify>,
    seen: watch::Sender<Seen>,
    events: broadcast::Sender<String>,
    /// What the gateway has confirmed.
    routed: Option<RouteDocument>,
    /// What was wanted when the last round began.
    generation: u64,
    /// Replicas that get no requests any more and have not answered all they got.
    draining: BTreeSet<ReplicaId>,
}

/// Why a round was not finished.
struct Unfinished {
    failure: Failure,
    permanent: bool,
}

impl Reconciler {
    pub(crate) fn start(control: &Arc<Control>, name: ServiceName) -> Actor {
        let (seen, watched) = watch::channel(Seen::default());
        let (events, _) = broadcast::channel(EVENTS);
        let wake = Arc::new(Notify::new());
        let actor = Actor { wake: Arc::clone(&wake), seen: watched, events: events.clone() };
        let task = Self {
            control: Arc::clone(control),
            name,
            wake,
            seen,
            events,
            routed: None,
            generation: 0,
            draining: BTreeSet::new(),
        };
        control.runtime.spawn(task.run());
        actor
    }

    async fn run(mut self) {
        let mut retry = RETRY;
        let mut stopping = self.control.stopping();
        loop {
            let control = Arc::clone(&self.control);
            let turn = control.rounds.acquire().await;
            // On the heap only while it runs: most services have nothing to do most of the time.
            let round = Box::pin(self.round()).await;
            drop(turn);
            let again = match round {
                Ok(again) => {
                    retry = RETRY;
                    let left = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default();
                    // A clock that was set back a day is not waited for.
                    again.map_or(RESYNC, left).min(RESYNC)
                }
                Err(unfinished) => {
                    let Failure { message, causes, .. } = &unfinished.failure;
                    tracing::warn!(service = %self.name, causes = causes.join(": "), "{message}");
                    self.seen.send_modify(|seen| {
                        seen.converged = false;
                        seen.error_of = self.generation;
                        seen.permanent = unfinished.permanent;
                        seen.error = Some(unfinished.failure);
                    });
                    retry = (retry * 2).min(MAX_RETRY);
                    retry
                }
            };
            if self.seen.borrow().removed {
                self.control.forget_actor(&self.name);
                return;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(again.max(Duration::from_millis(1))) => {}
                _ = stopping.wait_for(Option::is_some) => return,
            }
        }
    }

    /// Looks, routes, acts. When to come again though nothing changes.
    async fn round(&mut self) -> std::result::Result<Option<SystemTime>, Unfinished> {
        let db = &self.control.db;
        let Some(service) = db.service(self.name.as_str()).await? else {
            self.seen.send_modify(|seen| seen.removed = true);
            return Ok(None);
        };
        self.generation = service.generation;
        let target = self.control.target(&service.target)?;
        if service.deleting {
            self.remove(&*target).await?;
            return Ok(None);
        }
        let revision = db.revision(self.name.as_str(), service.revision).await?;
        let revision = revision.ok_or_else(|| {
            Unfinished::from(crate::problem::Problem::failed(format!(
                "revision {} of service `{}` is missing from the database",
                service.revision, self.name
            )))
        })?;
        if self.routed.is_none() {
            self.routed = self.control.gateway.get(self.name.as_str()).await?;
        }
        let trust = self.control.trust(&revision.package).await?;
        let mut spec = self.spec(&service, &revision, trust);
        let have = self.list(&*target).await?;
        // One that gets requests and was only just found again will say in a moment that it is ready.
        let found = |replica: &Replica| {
            matches!(replica.state, ReplicaState::Starting { .. }) && spec.in_use.contains(&replica.id)
        };
        if !have.iter().any(found) {
            self.route(&service, &revision, &spec, &have).await?;
        }
        spec.in_use = self.in_use();
        let routed = spec.in_use.clone();
        spec.in_use.extend(self.draining.iter().cloned());
        step("the gateway knows the routes");
        let applied = target.apply(&spec, &Told(&self.events)).await;
        spec.in_use = routed;
        let have = self.list(&*target).await?;
        step("replicas are started and stopped");
        let settled = self.look(&service, &revision, &spec, have).await?;
        let again = applied?;
        let soon = (!self.draining.is_empty() || !settled).then(|| SystemTime::now() + LOOK_AGAIN);
        Ok([again, soon].into_iter().flatten().min())
    }

    async fn list(&self, target: &dyn Target) -> std::result::Result<Vec<Replica>, Unfinished> {
        let listed = tokio::time::timeout(PATIENCE, target.list(Some(&self.name))).await;
        let silent = |_| Unfinished {
            failure: Failure::new(format!("target `{}` does not answer", target.kind())),
            permanent: false,
        };
        Ok(listed.map_err(silent)??)
    }

    fn in_use(&self) -> BTreeSet<ReplicaId> {
        let replicas = self.routed.iter().flat_map(|document| &document.revisions);
        replicas.flat_map(|revision| &revision.replicas).filter_map(|r| ReplicaId::new(&r.id)).collect()
    }

    fn spec(&self, service: &ServiceRow, revision: &RevisionRow, trust: Trust) -> ServiceSpec {
        let digests = if revision.auth { keys::digests(service) } else { vec![] };
        let wanted = Wanted {
            revision: RevisionSpec {
                service: self.name.clone(),
                revision: revision.revision,
                model_version: revision.version.to_string(),
                digest: revision.digest.clone(),
                package: revision.package.clone(),
                keys: digests,
                max_wait: Duration::from_millis(revision.max_wait_ms),
                scoring_timeout: Duration::from_millis(revision.scoring_timeout_ms),
                serving: Serving {
                    threads: revision.serving.threads,
                    workers: revision.serving.workers,
                    max_batch: revision.serving.max_batch,
                    triton_metrics: revision.serving.triton_metrics == Some(true),
                },
                limits: room::limits(&revision.resources),
                restart: room::restart(&revision.resources),
                trust,
                environment: Environment(room::environment(&revision.resources)),
            },
            replicas: service.replicas,
            weight: 1,
        };
        ServiceSpec {
            service: self.name.clone(),
            wanted: if service.active { vec![wanted] } else { vec![] },
            in_use: self.in_use(),
            start_timeout: START_TIMEOUT,
        }
    }

    /// Tells the gateway where requests go, where that has changed, and waits until it has kept it.
    async fn route(
        &mut self,
        service: &ServiceRow,
        revision: &RevisionRow,
        spec: &ServiceSpec,
        have: &[Replica],
    ) -> std::result::Result<(), Unfinished> {
        let groups = routes(spec, have);
        let replica = |replica: &&Replica| match &replica.state {
            ReplicaState::Ready { address, concurrency, .. } => Some(RouteReplica {
                id: replica.id.to_string(),
                address: address.clone(),
                concurrency: *concurrency,
            }),
            _ => None,
        };
        // Who is let in, and for how long, is that of the revision that serves.
        let serving = groups.first().map_or(revision.revision, |group| group.revision);
        let serving = match serving == revision.revision {
            true => None,
            false => self.control.db.revision(self.name.as_str(), serving).await?,
        };
        let revision = serving.as_ref().unwrap_or(revision);
        let revisions = groups.iter().map(|group| RouteRevision {
            revision: group.revision,
            weight: group.weight,
            replicas: group.replicas.iter().filter_map(replica).collect(),
        });
        let generation = self.routed.as_ref().map_or(0, |document| document.generation);
        let folder = self.control.workspace.services().join(self.name.as_str());
        let access_log = service.access_log.then(|| folder.join("access.log").display().to_string());
        let mut document = RouteDocument {
            service: self.name.to_string(),
            generation,
            keys: if revision.auth { keys::digests(service) } else { vec![] },
            cors_origins: service.cors_origins.clone(),
            access_log,
            max_wait_ms: revision.max_wait_ms,
            scoring_timeout_ms: revision.scoring_timeout_ms,
            revisions: revisions.collect(),
        };
        let same = self.routed.as_ref() == Some(&document);
        if same && self.draining.is_empty() {
            return Ok(());
        }
        document.generation += u64::from(!same);
        match self.control.gateway.put(&document).await {
            Ok(acknowledged) => {
                self.draining = acknowledged.draining.iter().filter_map(|id| ReplicaId::new(id)).collect();
                if same {
                    return Ok(());
                }
                let count: usize = document.revisions.iter().map(|revision| revision.replicas.len()).sum();
                if count > 0 {
                    let numbers: Vec<_> =
                        document.revisions.iter().map(|revision| revision.revision.to_string()).collect();
                    let numbers = numbers.join(", ");
                    let s = if count == 1 { "" } else { "s" };
                    let text = format!("requests go to revision {numbers} ({count} replica{s})");
                    Told(&self.events).event(Event(text));
                }
                self.routed = Some(document);
                Ok(())
            }
            Err(problem) => {
                // What the gateway has is read again in the next round.
                self.routed = None;
                Err(problem.into())
            }
        }
    }

    /// Says how the service is; whether every replica that serves has confirmed its keys.
    async fn look(
        &mut self,
        service: &ServiceRow,
        revision: &RevisionRow,
        spec: &ServiceSpec,
        have: Vec<Replica>,
    ) -> std::result::Result<bool, Unfinished> {
        let ours = |replica: &&Replica| replica.revision == revision.revision && !replica.outdated;
        let serving = |replica: &&Replica| replica.is_ready() && spec.in_use.contains(&replica.id);
        let ready = have.iter().filter(ours).filter(serving).count();
        let confirmed = have.iter().filter(serving).all(|replica| {
            matches!(replica.state, ReplicaState::Ready { keys_confirmed: true, .. }) || !revision.auth
        });
        let complete = if service.active {
            ready == service.replicas as usize && spec.in_use.len() == ready
        } else {
            spec.in_use.is_empty() && !have.iter().any(Replica::is_up)
        };
        let converged = complete && confirmed;
        let hopeless = failure(spec, &have).cloned();
        let death = have.iter().filter_map(Replica::death).max_by_key(|death| death.at);
        let waiting = self.control.is_changing(self.name.as_str());
        let (state, error) = match service.state {
            ServiceState::Failed => (ServiceState::Failed, service.error.clone()),
            state if waiting => (state, service.error.clone()),
            _ if converged => (ServiceState::Ready, None),
            _ => (ServiceState::Degraded, death.map(crate::settle::died)),
        };
        if (state, &error) != (service.state, &service.error) {
            let generation = service.generation;
            self.control.db.set_state(self.name.as_str(), generation, state, error.as_ref()).await?;
        }
        self.seen.send_replace(Seen {
            generation: service.generation,
            target: service.target.clone(),
            converged,
            removed: false,
            hopeless,
            error: None,
            error_of: 0,
            permanent: false,
            replicas: have,
            in_use: spec.in_use.clone(),
            wanted: if service.active { service.replicas } else { 0 },
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
        });
        Ok(confirmed)
    }

    /// First no request goes there, then nothing runs there, then it is forgotten.
    async fn remove(&mut self, target: &dyn Target) -> std::result::Result<(), Unfinished> {
        self.control.gateway.remove(self.name.as_str()).await?;
        step("a service has no routes");
        if let Err(error) = target.remove(&self.name).await {
            if !self.control.is_forced(self.name.as_str()) {
                return Err(error.into());
            }
            let text = format!("what is left of it there is removed once somebody can: {error}");
            tracing::warn!(service = %self.name, "{text}");
            Told(&self.events).event(Event(text));
            // Its keys at least are here.
            let folder = self.control.workspace.services().join(self.name.as_str());
            let _ = blocking(move || std::fs::remove_dir_all(folder)).await;
        }
        step("a service has no replicas");
        self.control.db.forget_service(self.name.as_str()).await?;
        step("a service is forgotten");
        self.seen.send_modify(|seen| seen.removed = true);
        Ok(())
    }
}

impl From<crate::problem::Problem> for Unfinished {
    fn from(problem: crate::problem::Problem) -> Self {
        Self { failure: problem.failure, permanent: false }
    }
}

impl From<drisse_core::TargetError> for Unfinished {
    fn from(error: drisse_core::TargetError) -> Self {
        let permanent = error.permanent;
        Self { permanent, ..crate::problem::Problem::from(error).into() }
    }
}

impl Control {
    /// The service's task, started where it does not run yet.
    pub(crate) fn actor(self: &Arc<Self>, name: &ServiceName) -> Actor {
        let mut actors = self.actors();
        let start = || Reconciler::start(self, name.clone());
        actors.entry(name.as_str().to_owned()).or_insert_with(start).clone()
    }

    /// Wakes services' tasks when a target says so.
    pub(crate) fn listen_to(self: &Arc<Self>, target: &dyn Target) {
        use futures_util::StreamExt;
        let (control, mut changes) = (Arc::clone(self), target.changes());
        self.runtime.spawn(async move {
            while let Some(name) = changes.next().await {
                let actor = control.actors().get(name.as_str()).cloned();
                if let Some(actor) = actor {
                    actor.wake.notify_one();
                }
            }
        });
    }

    /// Starts a task for every service, and wakes them when targets say so.
    pub(crate) async fn reconcile_all(self: &Arc<Self>) -> Result<()> {
        for target in self.targets.all() {
            self.listen_to(&*target);
        }
        for name in self.db.service_names().await? {
            if let Ok(name) = name.parse() {
                self.actor(&name);
            }
        }
        Ok(())
    }

    /// Removes what is there and belongs to no service: left by a service that was deleted while the
    /// control plane was killed.
    pub(crate) async fn remove_orphans(self: &Arc<Self>) -> Result<()> {
        let known: BTreeSet<_> = self.db.service_names().await?.into_iter().collect();
        for name in self.gateway.routed().await? {
            // It may have been deployed since.
            if !known.contains(&name) && self.db.service(&name).await?.is_none() {
                self.gateway.remove(&name).await?;
            }
        }
        for target in self.targets.all() {
            let Ok(Ok(all)) = tokio::time::timeout(PATIENCE, target.list(None)).await else { continue };
            let orphans: BTreeSet<_> = all.into_iter().map(|replica| replica.service).collect();
            for orphan in orphans.iter().filter(|name| !known.contains(name.as_str())) {
                if self.db.service(orphan.as_str()).await?.is_some() {
                    continue;
                }
                tracing::warn!(service = %orphan, "belongs to no service: removed");
                target.remove(orphan).await?;
            }
        }
        Ok(())
    }
}
