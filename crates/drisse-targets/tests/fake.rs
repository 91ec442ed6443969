//! The fake keeps every promise of a target, and fails as its script says.
#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

use drisse_core::conformance::target::{self, Fixture};
use drisse_core::{
    Applied, LogOptions, Place, ReplicaSet, RevisionSpec, ServiceSpec, Target, Wanted, failure,
};
use drisse_targets::fake::{Fake, FakeCluster, Script};
use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::time::Duration;

fn revision(service: &str, number: u64) -> RevisionSpec {
    let digest = format!("sha256:{number}");
    RevisionSpec::new(service.parse().unwrap(), number, &*digest, &*digest)
}

fn want(revision: &RevisionSpec) -> ServiceSpec {
    ServiceSpec {
        service: revision.service.clone(),
        wanted: vec![Wanted { revision: revision.clone(), replicas: 1, weight: 1 }],
        in_use: BTreeSet::new(),
        start_timeout: Duration::from_secs(60),
    }
}

/// Applies the spec after every change, and at the time that `apply` returns, until the replicas satisfy `done`.
async fn until(set: &ReplicaSet<Fake>, spec: &ServiceSpec, done: impl Fn(&[drisse_core::Replica]) -> bool) {
    let mut changes = set.changes();
    loop {
        let again = set.apply(spec, &()).await;
        if done(&set.list(Some(&spec.service)).await.unwrap()) {
            return;
        }
        let pause = match again {
            Ok(Applied { again: Some(at), .. }) => {
                at.duration_since(std::time::SystemTime::now()).unwrap_or_default()
            }
            Ok(_) => Duration::from_secs(60),
            Err(_) => Duration::ZERO,
        };
        let _ = tokio::time::timeout(pause, changes.next()).await;
    }
}

#[tokio::test]
async fn fake_keeps_every_promise() {
    let fake = Fake::new(Script::default());
    let broken = revision("broken", 1);
    let fixture = Fixture {
        good: [revision("good", 1), revision("good", 2)],
        other: revision("other", 1),
        broken: (broken, "the last line"),
    };
    // Replicas of the service with this name die.
    fake.follow(Script { die_in: Some("broken".to_owned()), permanent: true, ..Script::default() });
    target::all(&ReplicaSet(fake), &fixture).await;
}

#[tokio::test]
async fn a_cluster_that_drains_and_scales_by_itself_keeps_every_promise() {
    let script = Script { die_in: Some("broken".to_owned()), permanent: true, ..Script::default() };
    let fixture = Fixture {
        good: [revision("good", 1), revision("good", 2)],
        other: revision("other", 1),
        broken: (revision("broken", 1), "the last line"),
    };
    target::all(&FakeCluster::new(script), &fixture).await;
}

#[tokio::test]
async fn two_refused_starts_and_two_early_deaths_are_survived_and_three_are_given_up() {
    let script = Script { refuse_starts: 2, die_before_ready: 2, ..Script::default() };
    let set = ReplicaSet(Fake::new(script));
    let spec = want(&revision("s", 1));
    until(&set, &spec, |replicas| replicas.iter().any(drisse_core::Replica::is_ready)).await;
    set.0.follow(Script { die_before_ready: 3, ..Script::default() });
    let next = want(&revision("s", 2));
    until(&set, &next, |replicas| failure(&next, replicas).is_some()).await;
}

#[tokio::test]
async fn one_that_dies_after_a_while_is_replaced() {
    let set = ReplicaSet(Fake::new(Script { die_after: Some(Duration::ZERO), ..Script::default() }));
    let spec = want(&revision("s", 1));
    until(&set, &spec, |replicas| replicas.iter().filter(|r| r.death().is_some()).count() >= 2).await;
    set.0.follow(Script::default());
    until(&set, &spec, |replicas| replicas.iter().any(drisse_core::Replica::is_ready)).await;
    let ready = set.list(None).await.unwrap().into_iter().find(drisse_core::Replica::is_ready).unwrap();
    set.0.kill(&ready.id);
    until(&set, &spec, |replicas| replicas.iter().any(|r| r.is_ready() && r.id != ready.id)).await;
}

#[tokio::test]
async fn a_list_that_hangs_hangs_and_a_log_that_is_cut_ends() {
    let fake = Fake::new(Script { cut_logs: Some(1), ..Script::default() });
    let spec = revision("s", 1);
    fake.start(&spec, &()).await.unwrap();
    fake.start(&spec, &()).await.unwrap();
    let lines = fake.logs(&spec.service, LogOptions { lines: 10, follow: true }).await.unwrap();
    assert_eq!(lines.collect::<Vec<_>>().await.len(), 1);
    fake.follow(Script { list_hangs: true, ..Script::default() });
    assert!(tokio::time::timeout(Duration::from_millis(20), fake.list(None)).await.is_err());
    fake.follow(Script { unavailable: Some("no room".to_owned()), ..Script::default() });
    assert_eq!(fake.check().await.unwrap_err().reason, "no room");
}
