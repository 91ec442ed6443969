//! What every target promises, one function per promise.
//!
//! A target's test calls [`all`] with revisions of its own, on a target where nothing else runs. A broken promise
//! panics. Every wait is for a change that the target reports, so the caller sets the time limit.

use crate::{LogOptions, Replica, ReplicaId, RevisionSpec, ServiceName, ServiceSpec, Target, Wanted};
use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::time::Duration;

/// The revisions that the suite runs. The caller chooses the names of the three services.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Revisions 1 and 2 of one service; both become ready.
    pub good: [RevisionSpec; 2],
    /// A revision of a second service; it becomes ready.
    pub other: RevisionSpec,
    /// A revision of a third service that never becomes ready, and a text that its log must contain.
    pub broken: (RevisionSpec, &'static str),
}

/// Checks every promise, in order.
pub async fn all(target: &dyn Target, fixture: &Fixture) {
    target.check().await.expect("the target can be used");
    starts_what_is_wanted_once(target, fixture).await;
    tells_one_services_replicas_from_anothers(target, fixture).await;
    says_when_a_service_is_complete(target, fixture).await;
    match target.capabilities().drains_itself {
        true => replaces_what_is_in_use_by_itself(target, fixture).await,
        false => keeps_what_is_in_use_and_stops_what_is_not(target, fixture).await,
    }
    stops_what_is_too_much(target, fixture).await;
    gives_up_on_what_cannot_start_and_says_why(target, fixture).await;
    gives_logs_and_those_to_come(target, fixture).await;
    removes_all_of_a_service_and_nothing_else(target, fixture).await;
}

/// `apply` starts the wanted replicas; a repeated `apply` starts no more.
pub async fn starts_what_is_wanted_once(target: &dyn Target, fixture: &Fixture) {
    let spec = spec(&fixture.good[0], 2);
    let first = settled(target, &spec).await;
    assert_eq!(first.len(), 2);
    for _ in 0..3 {
        target.apply(&spec, &()).await.expect("apply works");
    }
    let ids = |replicas: &[Replica]| replicas.iter().map(|r| r.id.clone()).collect::<BTreeSet<_>>();
    let again = list(target, &spec.service).await;
    assert_eq!(ids(&again), ids(&first), "no replica came or went");
}

/// `list` of a service returns only its replicas; `list` of everything returns all.
pub async fn tells_one_services_replicas_from_anothers(target: &dyn Target, fixture: &Fixture) {
    settled(target, &spec(&fixture.good[0], 1)).await;
    settled(target, &spec(&fixture.other, 1)).await;
    let service = &fixture.other.service;
    assert!(list(target, service).await.iter().all(|replica| replica.service == *service));
    let all = target.list(None).await.expect("list works");
    for service in [&fixture.good[0].service, service] {
        assert!(all.iter().any(|replica| replica.service == *service), "{service} is in the whole list");
    }
}

/// `apply` reports a service as complete once all replicas of the wanted revisions are ready, and not before.
pub async fn says_when_a_service_is_complete(target: &dyn Target, fixture: &Fixture) {
    let spec = spec(&fixture.good[0], 3);
    let mut changes = target.changes();
    loop {
        let complete = target.apply(&spec, &()).await.expect("apply works").complete;
        let ready = list(target, &spec.service).await.iter().filter(|replica| replica.is_ready()).count();
        assert!(!complete || ready == 3, "complete with {ready} of 3 replicas");
        if complete {
            return;
        }
        changes.next().await.expect("the target reports changes as long as it exists");
    }
}

/// A target that drains replicas itself replaces them even while routes still name them.
pub async fn replaces_what_is_in_use_by_itself(target: &dyn Target, fixture: &Fixture) {
    let old = settled(target, &spec(&fixture.good[0], 1)).await;
    let mut next = spec(&fixture.good[1], 1);
    next.in_use = old.iter().map(|replica| replica.id.clone()).collect();
    let only_new = |replicas: &[Replica]| {
        let up = || replicas.iter().filter(|replica| replica.is_ready());
        up().count() == 1 && up().all(|replica| replica.revision == 2)
    };
    until(target, &next, only_new).await;
}

/// A replica of a revision that is not wanted any more stays while it is in use, and ends afterwards.
pub async fn keeps_what_is_in_use_and_stops_what_is_not(target: &dyn Target, fixture: &Fixture) {
    let old = settled(target, &spec(&fixture.good[0], 1)).await;
    // A surplus replica may still be ending.
    let ready = old.iter().filter(|replica| replica.is_ready());
    let used: BTreeSet<ReplicaId> = ready.map(|replica| replica.id.clone()).collect();
    let mut next = spec(&fixture.good[1], 1);
    next.in_use = used.clone();
    let both = settled(target, &next).await;
    assert!(
        used.iter().all(|id| both.iter().any(|r| r.id == *id && r.is_ready())),
        "the old replica still serves"
    );
    next.in_use = both.iter().filter(|r| r.revision == 2).map(|r| r.id.clone()).collect();
    until(target, &next, |replicas| replicas.iter().all(|replica| replica.revision == 2)).await;
}

/// When fewer replicas are wanted, surplus replicas end, but never a replica that is in use.
pub async fn stops_what_is_too_much(target: &dyn Target, fixture: &Fixture) {
    let three = settled(target, &spec(&fixture.good[1], 3)).await;
    let mut one = spec(&fixture.good[1], 1);
    let kept = three.iter().rfind(|replica| replica.is_ready()).expect("three are ready").id.clone();
    one.in_use = BTreeSet::from([kept.clone()]);
    let left = until(target, &one, |replicas| replicas.len() == 1).await;
    assert!(target.capabilities().drains_itself || left[0].id == kept, "a replica in use ended");
}

/// A replica that cannot start is reported as dead, with the reason and the last lines of its log.
pub async fn gives_up_on_what_cannot_start_and_says_why(target: &dyn Target, fixture: &Fixture) {
    let (broken, text) = &fixture.broken;
    let spec = spec(broken, 1);
    let replicas = until(target, &spec, |replicas| crate::failure(&spec, replicas).is_some()).await;
    let death = crate::failure(&spec, &replicas).expect("the loop ended with a failure");
    assert!(death.before_ready && !death.reason.is_empty());
    assert!(death.log.iter().any(|line| line.contains(text)), "{:?} does not contain `{text}`", death.log);
}

/// `logs` returns the last lines, and with `follow` also lines that are written later.
pub async fn gives_logs_and_those_to_come(target: &dyn Target, fixture: &Fixture) {
    let service = &fixture.good[1].service;
    let options = LogOptions { lines: 1, follow: false };
    let there: Vec<_> = target.logs(service, options).await.expect("logs work").collect().await;
    assert_eq!(there.len(), 1, "one line was requested");
    let options = LogOptions { lines: 0, follow: true };
    let mut following = target.logs(service, options).await.expect("logs work");
    // A second replica logs its start.
    let more = spec(&fixture.good[1], 2);
    let (line, _) = futures_util::future::join(following.next(), settled(target, &more)).await;
    assert!(line.is_some());
}

/// `remove` leaves nothing of the service and everything of the others; removing it again succeeds.
pub async fn removes_all_of_a_service_and_nothing_else(target: &dyn Target, fixture: &Fixture) {
    let (gone, stays) = (&fixture.good[0].service, &fixture.other.service);
    let before = list(target, stays).await;
    for _ in 0..2 {
        target.remove(gone).await.expect("remove works");
        assert_eq!(list(target, gone).await, []);
    }
    assert_eq!(list(target, stays).await, before);
    for service in [stays, &fixture.broken.0.service] {
        target.remove(service).await.expect("remove works");
    }
    assert_eq!(target.list(None).await.expect("list works"), []);
}

fn spec(revision: &RevisionSpec, replicas: u32) -> ServiceSpec {
    ServiceSpec {
        service: revision.service.clone(),
        wanted: vec![Wanted { revision: revision.clone(), replicas, weight: 1 }],
        in_use: BTreeSet::new(),
        start_timeout: Duration::from_secs(300),
    }
}

async fn list(target: &dyn Target, service: &ServiceName) -> Vec<Replica> {
    target.list(Some(service)).await.expect("list works")
}

/// Calls `apply` until every wanted replica is ready.
async fn settled(target: &dyn Target, spec: &ServiceSpec) -> Vec<Replica> {
    let wanted = &spec.wanted[0];
    let number = wanted.revision.revision;
    until(target, spec, |replicas| {
        let ready = replicas.iter().filter(|r| r.revision == number && r.is_ready()).count();
        ready == wanted.replicas as usize
    })
    .await
}

/// Calls `apply` after every change until `done` returns true.
async fn until(target: &dyn Target, spec: &ServiceSpec, done: impl Fn(&[Replica]) -> bool) -> Vec<Replica> {
    let mut changes = target.changes();
    loop {
        target.apply(spec, &()).await.expect("apply works");
        let replicas = list(target, &spec.service).await;
        if done(&replicas) {
            return replicas;
        }
        changes.next().await.expect("the target reports changes as long as it exists");
    }
}
