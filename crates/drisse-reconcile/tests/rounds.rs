//! What the reconciler does, round by round: desired state and routes in memory, replicas that follow a script.

#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

use drisse_core::{Place, ReplicaSet, Restart, RevisionSpec, ServiceName, Target, Wanted};
use drisse_reconcile::memory::{MemoryDesired, MemoryRoutes, MemoryTargets};
use drisse_reconcile::{
    Deletion, Desired, DesiredService, Handle, Observed, Ports, Reconcilers, Routes, Status,
};
use drisse_targets::fake::{Fake, FakeCluster, Script};
use drisse_wire::control::ServiceState;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

struct World {
    desired: MemoryDesired,
    routes: MemoryRoutes,
    place: Fake,
    reconcilers: Reconcilers,
    tasks: TaskTracker,
    stop: CancellationToken,
}

fn name() -> ServiceName {
    "digits".parse().unwrap()
}

fn wanted(revision: u64, replicas: u32) -> Wanted {
    let revision = RevisionSpec {
        restart: Restart::Always,
        ..RevisionSpec::new(name(), revision, "sha256:0", "sha256:1")
    };
    Wanted { revision, replicas, weight: 1 }
}

fn service(replicas: u32) -> DesiredService {
    DesiredService {
        generation: 1,
        target: "fake".to_owned(),
        wanted: vec![wanted(1, replicas)],
        active: true,
        deletion: None,
        cors_origins: vec![],
        access_log: None,
        in_operation: false,
        status: Status { state: ServiceState::Deploying, error: None },
    }
}

impl World {
    fn new(script: Script) -> Self {
        Self::with(MemoryDesired::default(), MemoryRoutes::default(), Fake::new(script))
    }

    fn with(desired: MemoryDesired, routes: MemoryRoutes, place: Fake) -> Self {
        Self::on(desired, routes, Arc::new(ReplicaSet(place.clone())), place)
    }

    fn on(desired: MemoryDesired, routes: MemoryRoutes, target: Arc<dyn Target>, place: Fake) -> Self {
        let ports = Ports {
            desired: Arc::new(desired.clone()),
            routes: Arc::new(routes.clone()),
            targets: Arc::new(MemoryTargets(BTreeMap::from([("fake".to_owned(), target)]))),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let reconcilers = Reconcilers::new(ports, tasks.clone(), stop.clone());
        Self { desired, routes, place, reconcilers, tasks, stop }
    }

    /// Wants a service, and starts its task.
    async fn want(&self, service: DesiredService) -> Handle {
        self.desired.want(&name(), service);
        self.reconcilers.start().await.unwrap();
        self.reconcilers.of(&name())
    }

    /// Changes the desired state, and waits until the service has converged.
    async fn change(&self, change: impl FnOnce(&mut DesiredService)) {
        let generation = self.desired.change(&name(), change).unwrap();
        let handle = self.reconcilers.of(&name());
        handle.wake();
        until(&handle, |observed| observed.generation == generation && observed.converged).await;
    }

    /// The revisions of each document that was put in force, with the number of replicas.
    fn history(&self) -> Vec<Vec<(u64, usize)>> {
        let revisions = |document: &drisse_wire::routes::RouteDocument| {
            document.revisions.iter().map(|r| (r.revision, r.replicas.len())).collect()
        };
        self.routes.history().iter().map(revisions).collect()
    }

    async fn replicas(&self) -> Vec<drisse_core::Replica> {
        self.place.list(None).await.unwrap()
    }

    async fn end(self) -> (MemoryDesired, MemoryRoutes, Fake) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        (self.desired, self.routes, self.place)
    }
}

async fn until(handle: &Handle, is: impl FnMut(&Observed) -> bool) -> Observed {
    let mut observed = handle.observed();
    let seen = tokio::time::timeout(Duration::from_secs(3600), observed.wait_for(is)).await;
    seen.expect("it comes to that").unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_service_is_ready_once_its_routes_name_all_replicas() {
    let world = World::new(Script { start_time: Duration::from_secs(5), ..Script::default() });
    let handle = world.want(service(3)).await;
    let observed = until(&handle, |observed| observed.converged).await;
    assert_eq!((observed.ready, observed.wanted, observed.in_use.len()), (3, 3, 3));
    assert_eq!(world.history().last().unwrap(), &[(1, 3)]);
    assert_eq!(world.desired.now(&name()).unwrap().status.state, ServiceState::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_update_keeps_the_old_revision_in_the_routes_until_all_of_the_new_one_are_ready() {
    let world = World::new(Script::default());
    until(&world.want(service(2)).await, |observed| observed.converged).await;
    world.place.follow(Script { start_time: Duration::from_secs(5), ..Script::default() });
    let before = world.routes.history().len();
    world.change(|service| service.wanted = vec![wanted(2, 2)]).await;
    assert_eq!(world.history()[before..], [vec![(2, 2)]], "nothing between the old and the new routes");
    assert!(world.replicas().await.iter().all(|replica| replica.revision == 2));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_drains_is_not_stopped_before_its_last_request() {
    let world = World::new(Script::default());
    let handle = world.want(service(1)).await;
    until(&handle, |observed| observed.converged).await;
    let old = world.replicas().await[0].id.clone();
    world.routes.set_busy([old.to_string()]);
    world.change(|service| service.wanted = vec![wanted(2, 1)]).await;
    assert!(world.replicas().await.iter().any(|replica| replica.id == old), "it still answers a request");
    world.routes.set_busy([]);
    until(&handle, |observed| observed.replicas.iter().all(|replica| replica.id != old)).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_fails_is_reported_and_asked_again() {
    let world = World::new(Script::default());
    world.routes.set_failing(Some("the gateway is away"));
    let handle = world.want(service(1)).await;
    let observed = until(&handle, |observed| observed.error.is_some()).await;
    assert_eq!(observed.error_since(1).unwrap().failure.message, "the gateway is away");
    assert!(observed.error_since(2).is_none());
    world.routes.set_failing(None);
    until(&handle, |observed| observed.converged && observed.error.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_death_before_it_was_ready_shows_that_waiting_cannot_succeed() {
    let world = World::new(Script { die_before_ready: 1, permanent: true, ..Script::default() });
    let handle = world.want(service(1)).await;
    let observed = until(&handle, |observed| observed.hopeless.is_some()).await;
    assert_eq!(observed.hopeless.unwrap().reason, "died as scripted");
    let status = world.desired.now(&name()).unwrap().status;
    assert_eq!(status.state, ServiceState::Degraded);
    assert_eq!(status.error.unwrap().message, "its scoring server died as scripted");
}

#[tokio::test(start_paused = true)]
async fn while_an_operation_changes_a_service_its_status_is_left_alone() {
    let world = World::new(Script::default());
    let handle = world.want(DesiredService { in_operation: true, ..service(1) }).await;
    until(&handle, |observed| observed.converged).await;
    assert_eq!(world.desired.now(&name()).unwrap().status.state, ServiceState::Deploying);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_is_replaced_and_the_routes_follow() {
    let world = World::new(Script::default());
    let handle = world.want(service(2)).await;
    until(&handle, |observed| observed.converged).await;
    let dead = world.replicas().await[0].id.clone();
    world.place.kill(&dead);
    let observed = until(&handle, |observed| observed.converged && !observed.in_use.contains(&dead)).await;
    assert_eq!(observed.ready, 2);
}

#[tokio::test(start_paused = true)]
async fn reconcilers_that_start_again_take_over_what_runs_and_start_nothing() {
    let world = World::new(Script::default());
    until(&world.want(service(2)).await, |observed| observed.converged).await;
    let before: Vec<_> = world.replicas().await.into_iter().map(|replica| replica.id).collect();
    let documents = world.routes.history().len();
    let (desired, routes, place) = world.end().await;
    let world = World::with(desired, routes, place);
    world.reconcilers.start().await.unwrap();
    until(&world.reconcilers.of(&name()), |observed| observed.converged).await;
    let after: Vec<_> = world.replicas().await.into_iter().map(|replica| replica.id).collect();
    assert_eq!((before, documents), (after, world.routes.history().len()));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_service_loses_its_routes_then_its_replicas_then_is_forgotten() {
    let world = World::new(Script::default());
    let handle = world.want(service(1)).await;
    until(&handle, |observed| observed.converged).await;
    // While its routes cannot be removed, its replicas stay.
    world.routes.set_failing(Some("the gateway is away"));
    world.desired.change(&name(), |service| service.deletion = Some(Deletion::Orderly));
    handle.wake();
    until(&handle, |observed| observed.error.is_some()).await;
    assert_eq!(world.replicas().await.len(), 1);
    world.routes.set_failing(None);
    until(&handle, |observed| observed.removed).await;
    assert!(world.replicas().await.is_empty() && world.routes.list().await.unwrap().is_empty());
    assert!(world.desired.service(&name()).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_no_service_is_removed() {
    let world = World::new(Script::default());
    until(&world.want(service(1)).await, |observed| observed.converged).await;
    let (_, routes, place) = world.end().await;
    let world = World::with(MemoryDesired::default(), routes, place);
    world.reconcilers.remove_orphans().await.unwrap();
    assert!(world.replicas().await.is_empty() && world.routes.list().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_not_there_is_an_error_that_names_it() {
    let world = World::new(Script::default());
    let handle = world.want(DesiredService { target: "gone".to_owned(), ..service(1) }).await;
    let observed = until(&handle, |observed| observed.error.is_some()).await;
    assert_eq!(observed.error.unwrap().failure.message, "target `gone` not found");
}

#[tokio::test(start_paused = true)]
async fn two_wanted_revisions_share_the_requests_by_their_weights() {
    let world = World::new(Script::default());
    let two = DesiredService {
        wanted: vec![Wanted { weight: 9, ..wanted(1, 2) }, Wanted { weight: 1, ..wanted(2, 1) }],
        ..service(1)
    };
    let observed = until(&world.want(two).await, |observed| observed.converged).await;
    assert_eq!((observed.ready, observed.wanted), (3, 3));
    let last = world.routes.history().pop().unwrap();
    let shares: Vec<_> = last.revisions.iter().map(|r| (r.revision, r.weight, r.replicas.len())).collect();
    assert_eq!(shares, [(1, 9, 2), (2, 1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn more_or_fewer_replicas_than_asked_get_requests_and_are_ready_where_the_target_scales_itself() {
    let cluster = FakeCluster::new(Script::default());
    let (desired, routes) = (MemoryDesired::default(), MemoryRoutes::default());
    let world = World::on(desired, routes, Arc::new(cluster.clone()), Fake::new(Script::default()));
    let handle = world.want(service(3)).await;
    until(&handle, |observed| observed.converged).await;
    for scaled in [5, 1, 2] {
        cluster.scale(&name(), scaled);
        let as_many = |observed: &Observed| observed.converged && observed.ready == scaled;
        let observed = until(&handle, as_many).await;
        assert_eq!((observed.wanted, observed.in_use.len()), (scaled, scaled as usize));
        assert_eq!(world.history().last().unwrap(), &[(1, scaled as usize)]);
        assert_eq!(world.desired.now(&name()).unwrap().status.state, ServiceState::Ready);
    }
    // An update of a service that is scaled below what is asked is complete all the same.
    world.change(|service| service.wanted = vec![wanted(2, 3)]).await;
    assert_eq!(world.history().last().unwrap(), &[(2, 2)]);
}
