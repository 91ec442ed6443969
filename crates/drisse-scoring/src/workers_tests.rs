//! The threads that run models, tried on real threads; `tests/races.rs` tries their interleavings.

use crate::workers::*;
use drisse_core::Cancel;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn lanes_take_turns() {
    let workers = Workers::start(1).unwrap();
    let (busy, other) = (workers.add_lane(1), workers.add_lane(1));
    let (go, gate) = mpsc::channel::<()>();
    let (tell, order) = mpsc::channel();
    let push = |lane: &LaneHandle, name: &'static str| {
        let tell = tell.clone();
        workers.push(lane, 10, soon(), &Cancel::new(), Box::new(move || tell.send(name).unwrap())).unwrap()
    };
    let first =
        workers.push(&busy, 10, soon(), &Cancel::new(), Box::new(move || gate.recv().unwrap())).unwrap();
    let _tickets = [push(&busy, "b1"), push(&busy, "b2"), push(&other, "o")];
    go.send(()).unwrap();
    assert_eq!(order.iter().take(3).collect::<Vec<_>>(), ["o", "b1", "b2"]);
    drop(first);
}

#[test]
fn a_full_lane_refuses_and_a_ticket_that_goes_frees_its_place() {
    let workers = Workers::start(1).unwrap();
    let lane = workers.add_lane(1);
    let (go, gate) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    let block = move || {
        started.send(()).unwrap();
        gate.recv().unwrap();
    };
    let blocking = workers.push(&lane, 1, soon(), &Cancel::new(), Box::new(block)).unwrap();
    running.recv().unwrap();
    let waiting = workers.push(&lane, 1, soon(), &Cancel::new(), Box::new(|| panic!("nobody waits for it")));
    assert!(waiting.is_some());
    assert!(workers.push(&lane, 1, soon(), &Cancel::new(), Box::new(|| ())).is_none());
    assert_eq!(workers.waiting(&lane), 1);
    let hour = Duration::from_secs(3600);
    // What is left of the one that runs, and the one that waits.
    assert!(workers.wait(&lane, hour).is_some_and(|wait| wait > hour && wait < 2 * hour));
    drop(waiting);
    assert_eq!(workers.waiting(&lane), 0);
    assert!(workers.wait(&lane, hour).is_some_and(|wait| wait < hour));
    go.send(()).unwrap();
    drop(workers);
    drop(blocking);
}

#[test]
fn work_past_its_deadline_is_dropped() {
    let workers = Workers::start(1).unwrap();
    let lane = workers.add_lane(1);
    let (tell, told) = mpsc::channel::<()>();
    let late = Instant::now().checked_sub(Duration::from_millis(1)).unwrap();
    let work = Box::new(move || tell.send(()).unwrap());
    let _ticket = workers.push(&lane, 1, late, &Cancel::new(), work).unwrap();
    assert!(told.recv().is_err(), "its sender went without sending");
}
