//! The interleavings of requests and changes of their routes: a replica that is in no route, and that the gateway does
//! not list as draining, gets no more requests.
//!
//! Shuttle decides which thread runs next. Its semaphore stands in for tokio's, which promises the same: one queue, and
//! permits that stay valid when the semaphore closes. The order of steps is that of `put` in table.rs, without the disk.
//! Steps are reordered, memory accesses are not. Probes take no permit and do not count as requests.

#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

#[expect(dead_code, reason = "the admin socket reads them")]
#[path = "../../src/metrics.rs"]
mod metrics;
#[expect(dead_code, reason = "shared with the tests that measure")]
#[path = "../../../drisse/tests/prove/proof.rs"]
mod proof;
#[expect(dead_code, reason = "nothing is sent")]
#[path = "../../src/replica.rs"]
mod replica;
#[path = "../../src/replica_group.rs"]
mod replica_group;
#[expect(dead_code, reason = "keys are checked by the proxy")]
#[path = "../../src/service.rs"]
mod service;
mod sync;

/// Nothing connects.
mod endpoint {
    #[derive(Debug)]
    pub(crate) struct Endpoint;

    impl Endpoint {
        pub(crate) fn new(_: &drisse_wire::routes::RouteReplica) -> Result<Self, String> {
            Ok(Self)
        }
    }
}

/// Nothing connects.
mod pool {
    #[derive(Debug)]
    pub(crate) struct Pool;

    impl Pool {
        pub(crate) fn new(_: crate::endpoint::Endpoint, _cores: usize) -> Self {
            Self
        }
    }
}

use drisse_wire::routes::{RouteDocument, RouteReplica, RouteRevision};
use metrics::Metrics;
use replica_group::{Permit, PermitError};
use service::Service;
use shuttle::future::block_on;
use shuttle::sync::Mutex;
use shuttle::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const REPLICAS: [&str; 4] = ["a", "b", "c", "d"];

/// The routes in force, and the replicas that were stopped.
struct Gateway {
    service: Mutex<Arc<Service>>,
    stopped: [AtomicBool; 4],
}

fn service(generation: u64, replicas: &[&str], before: Option<&Service>) -> Arc<Service> {
    let replica = |id: &&str| RouteReplica {
        id: (*id).to_owned(),
        address: format!("unix:/{id}"),
        concurrency: 1,
        ..RouteReplica::default()
    };
    let revision = RouteRevision {
        revision: generation,
        weight: 1,
        replicas: replicas.iter().map(replica).collect(),
        ..RouteRevision::default()
    };
    let document = RouteDocument {
        service: "s".to_owned(),
        generation,
        max_wait_ms: 3_600_000,
        scoring_timeout_ms: 3_600_000,
        revisions: vec![revision],
        ..RouteDocument::default()
    };
    Arc::new(Service::new(document, before, Metrics::default().service("s"), 1).unwrap())
}

impl Gateway {
    fn current(&self) -> Arc<Service> {
        Arc::clone(&self.service.lock().unwrap())
    }

    /// Does what `Table::put` does, and then what the control plane does with the acknowledgement.
    fn put(&self, generation: u64, replicas: &[&str]) {
        let before = self.current();
        let next = service(generation, replicas, Some(&before));
        *self.service.lock().unwrap() = Arc::clone(&next);
        before.retire();
        self.stop(replicas, &next.draining());
    }

    fn stop(&self, routed: &[&str], draining: &[String]) {
        for (id, stopped) in REPLICAS.iter().zip(&self.stopped) {
            // `d` does not exist before the last change.
            if !routed.contains(id) && !draining.iter().any(|other| other == id) && *id != "d" {
                stopped.store(true, SeqCst);
            }
        }
    }

    fn is_stopped(&self, id: &str) -> bool {
        REPLICAS.iter().zip(&self.stopped).any(|(other, stopped)| *other == id && stopped.load(SeqCst))
    }

    /// What the proxy does; `None` if the time is over.
    async fn permit(&self) -> Option<Permit> {
        let mut service = self.current();
        let started = Instant::now();
        let patience = service.patience(started, started + Duration::from_secs(3600));
        loop {
            match service.permit(patience, &[]).await {
                Ok(permit) => return Some(permit),
                Err(PermitError::RoutesChanged) => service = self.current(),
                Err(_) => return None,
            }
        }
    }

    fn request(&self) {
        let Some(permit) = block_on(self.permit()) else { return };
        let id = permit.replica().document.id.clone();
        for _ in 0..3 {
            assert!(!self.is_stopped(&id), "{id} was stopped and has a request");
            thread::yield_now();
        }
        assert!(!self.is_stopped(&id), "{id} was stopped and still has a request");
        permit.answered();
    }
}

fn model() {
    let gateway = Gateway { service: Mutex::new(service(1, &["a", "b"], None)), stopped: Default::default() };
    let gateway = Arc::new(gateway);
    let requests = [(); 3].map(|()| {
        let gateway = Arc::clone(&gateway);
        thread::spawn(move || (0..2).for_each(|_| gateway.request()))
    });
    gateway.put(2, &["c", "b"]);
    // Back to the replica of before, if it still runs.
    let back: &[&str] = if gateway.is_stopped("a") { &["c"] } else { &["a", "c"] };
    gateway.put(3, back);
    // The control plane asks again while something drains.
    gateway.stop(back, &gateway.current().draining());
    gateway.put(4, &["d"]);
    for request in requests {
        request.join().unwrap();
    }
    let last = gateway.current();
    assert!(last.draining().is_empty(), "every request was answered");
    gateway.stop(&["d"], &[]);
    // No permit was lost.
    gateway.request();
}

#[test]
fn a_replica_that_is_neither_routed_nor_draining_gets_no_request() {
    let rounds = if proof::whole() { 100_000 } else { 2_000 };
    let held = std::panic::catch_unwind(|| {
        shuttle::check_random(model, rounds / 2);
        shuttle::check_pct(model, rounds / 2, 3);
    });
    proof::holds(
        "7. Supply chain",
        "gateway: a replica that is neither routed nor listed as draining gets no more requests",
        if held.is_ok() { "held in each" } else { "broken" },
        format!("{rounds} thread schedules"),
        held.is_ok(),
    );
}
