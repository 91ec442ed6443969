//! The routing of one service, on tokio's semaphore; `tests/races` tries its interleavings.

use crate::metrics::Metrics;
use crate::replica_group::{Patience, PermitError};
use crate::service::Service;
use drisse_core::{ErrorKind, MaxWait};
use drisse_wire::routes::{RouteDocument, RouteReplica, RouteRevision};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn service(revisions: &[(u64, u32, u32)]) -> Service {
    service_after(None, revisions)
}

fn service_after(before: Option<&Service>, revisions: &[(u64, u32, u32)]) -> Service {
    let revision = |&(revision, weight, concurrency): &(u64, u32, u32)| RouteRevision {
        revision,
        weight,
        replicas: vec![RouteReplica {
            id: format!("r{revision}"),
            address: format!("unix:/r{revision}"),
            concurrency,
            ..RouteReplica::default()
        }],
        ..RouteRevision::default()
    };
    let document = RouteDocument {
        service: "s".to_owned(),
        generation: 1,
        max_wait_ms: 20,
        scoring_timeout_ms: 1000,
        revisions: revisions.iter().map(revision).collect(),
        ..RouteDocument::default()
    };
    Service::new(document, before, Metrics::default().service("s"), 1).unwrap()
}

#[test]
fn weights_are_kept_closely() {
    let service = service(&[(1, 90, 1), (2, 10, 1), (3, 0, 1)]);
    let second = (0..1000).filter(|_| service.bypass_queue(&[]).replica().document.id == "r2").count();
    assert!((95..=105).contains(&second), "{second} of 1000");
}

#[tokio::test]
async fn a_full_service_queues_then_refuses_and_a_change_of_routes_wakes_the_queue() {
    let service = service(&[(1, 1, 1)]);
    let by = |time| service.patience(Instant::now(), Instant::now() + time);
    let soon = || by(Duration::from_secs(60));
    let first = service.permit(soon(), &[]).await.unwrap();
    let Err(error) = service.permit(soon(), &[]).await else { panic!("it is full") };
    assert_eq!(service.overloaded(&error).kind(), ErrorKind::Overloaded);
    let far = Patience { max_wait: MaxWait::Fixed(Duration::from_secs(60)), ..soon() };
    let (waited, ()) = tokio::join!(service.permit(far, &[]), async { drop(first) });
    let second = waited.unwrap();
    let (waited, ()) = tokio::join!(service.permit(far, &[]), async { service.retire() });
    assert!(matches!(waited, Err(PermitError::RoutesChanged)));
    drop(second);
}

#[tokio::test]
async fn a_replica_that_left_the_routes_keeps_its_connections_until_its_last_request_ends() {
    let before = service(&[(1, 1, 1)]);
    let started = Instant::now();
    let patience = before.patience(started, started + Duration::from_secs(60));
    let permit = before.permit(patience, &[]).await.unwrap();
    let replica = Arc::downgrade(permit.replica());
    let after = service_after(Some(&before), &[(2, 1, 1)]);
    before.retire();
    drop(before);
    assert_eq!(after.draining(), ["r1"]);
    permit.answered();
    assert!(replica.upgrade().is_some());
    assert!(after.draining().is_empty());
    assert!(replica.upgrade().is_none(), "its connections are closed");
}
