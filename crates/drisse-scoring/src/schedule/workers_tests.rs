//! Tests of the threads that run models on real threads; `tests/races.rs` tests their interleavings.

use super::workers::*;
use drisse_core::Cancel;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Work that shares a run with work of the same `like`.
struct Step {
    like: Option<char>,
    run: Box<dyn FnOnce() + Send>,
}

impl Job for Step {
    fn joins(&self, taken: &[Self]) -> bool {
        self.like.is_some() && taken.iter().all(|other| other.like == self.like) && taken.len() < 3
    }

    fn run(jobs: Vec<Self>) {
        jobs.into_iter().for_each(|job| (job.run)());
    }
}

fn alone(run: impl FnOnce() + Send + 'static) -> Step {
    Step { like: None, run: Box::new(run) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[test]
fn queues_take_turns() {
    let workers = Workers::start(1).unwrap();
    let (busy, other) = (workers.add_queue(1), workers.add_queue(1));
    let (go, gate) = mpsc::channel::<()>();
    let (tell, order) = mpsc::channel();
    let push = |queue: &QueueHandle<Step>, name: &'static str| {
        let tell = tell.clone();
        workers.push(queue, 10, soon(), &Cancel::new(), alone(move || tell.send(name).unwrap())).unwrap()
    };
    let first = workers.push(&busy, 10, soon(), &Cancel::new(), alone(move || gate.recv().unwrap())).unwrap();
    let _tickets = [push(&busy, "b1"), push(&busy, "b2"), push(&other, "o")];
    go.send(()).unwrap();
    assert_eq!(order.iter().take(3).collect::<Vec<_>>(), ["o", "b1", "b2"]);
    drop(first);
}

#[test]
fn a_full_queue_refuses_and_a_ticket_that_goes_frees_its_place() {
    let workers = Workers::start(1).unwrap();
    let queue = workers.add_queue(1);
    let (go, gate) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    let block = move || {
        started.send(()).unwrap();
        gate.recv().unwrap();
    };
    let blocking = workers.push(&queue, 1, soon(), &Cancel::new(), alone(block)).unwrap();
    running.recv().unwrap();
    let waiting = workers.push(&queue, 1, soon(), &Cancel::new(), alone(|| panic!("its ticket was dropped")));
    assert!(waiting.is_some());
    assert!(workers.push(&queue, 1, soon(), &Cancel::new(), alone(|| ())).is_none());
    assert_eq!(workers.waiting(&queue), 1);
    let hour = Duration::from_secs(3600);
    // The rest of the current run, and the run of the waiting job.
    assert!(workers.wait(&queue, hour, hour).is_some_and(|wait| wait > hour && wait < 2 * hour));
    drop(waiting);
    assert_eq!(workers.waiting(&queue), 0);
    assert!(workers.wait(&queue, hour, hour).is_some_and(|wait| wait < hour));
    go.send(()).unwrap();
    drop(workers);
    drop(blocking);
}

#[test]
fn work_past_its_deadline_is_dropped() {
    let workers = Workers::start(1).unwrap();
    let queue = workers.add_queue(1);
    let (sender, receiver) = mpsc::channel::<()>();
    let late = Instant::now().checked_sub(Duration::from_millis(1)).unwrap();
    let work = alone(move || sender.send(()).unwrap());
    let _ticket = workers.push(&queue, 1, late, &Cancel::new(), work).unwrap();
    assert!(receiver.recv().is_err(), "its sender went without sending");
}

/// Starts one thread that is busy until `go` is sent.
fn busy() -> (Workers<Step>, QueueHandle<Step>, mpsc::Sender<()>, Ticket<Step>) {
    let workers = Workers::start(1).unwrap();
    let queue = workers.add_queue(1);
    let (go, gate) = mpsc::channel::<()>();
    let (started, running) = mpsc::channel();
    let block = alone(move || {
        started.send(()).unwrap();
        gate.recv().unwrap();
    });
    let ticket = workers.push(&queue, 1, soon(), &Cancel::new(), block).unwrap();
    running.recv().unwrap();
    (workers, queue, go, ticket)
}

#[test]
fn what_waits_shares_a_run_with_its_like_and_overtakes_no_other_run() {
    let (workers, queue, go, _blocking) = busy();
    let (tell, order) = mpsc::channel();
    let push = |like, name: &'static str| {
        let tell = tell.clone();
        let step = Step { like, run: Box::new(move || tell.send(name).unwrap()) };
        workers.push(&queue, 10, soon(), &Cancel::new(), step).unwrap()
    };
    let _tickets = [
        push(Some('a'), "a1"),
        push(Some('b'), "b1"),
        push(Some('a'), "a2"),
        push(None, "alone"),
        push(Some('a'), "a3"),
        push(Some('a'), "a4"),
        push(Some('b'), "b2"),
    ];
    go.send(()).unwrap();
    let ran: Vec<_> = order.iter().take(7).collect();
    assert_eq!(ran, ["a1", "a2", "a3", "b1", "b2", "alone", "a4"]);
}

#[test]
fn busy_queues_share_the_threads_by_time() {
    let (workers, _queue, go, _blocking) = busy();
    let (long, short) = (workers.add_queue(1), workers.add_queue(1));
    let (tell, order) = mpsc::channel();
    let push = |queue, name: &'static str, time| {
        let tell = tell.clone();
        let run = move || {
            let began = Instant::now();
            while began.elapsed() < time {
                std::hint::spin_loop();
            }
            tell.send(name).unwrap();
        };
        workers.push(queue, 100, soon(), &Cancel::new(), alone(run)).unwrap()
    };
    let ms = Duration::from_millis;
    let mut tickets: Vec<_> = (0..3).map(|_| push(&long, "long", ms(40))).collect();
    tickets.extend((0..12).map(|_| push(&short, "short", ms(1))));
    go.send(()).unwrap();
    let ran: Vec<_> = order.iter().take(15).collect();
    let second_long = ran.iter().enumerate().filter(|(_, name)| **name == "long").nth(1).unwrap().0;
    assert_eq!(second_long, 13, "all the short ones together take less than one long one: {ran:?}");
}
