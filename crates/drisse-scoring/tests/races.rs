//! The interleavings of the threads that run models: shuttle replaces std's locks and threads, chooses at each step the
//! thread that continues, and finds threads that wait for ever.
//!
//! It reorders steps, not memory accesses: all shared state is behind one lock. A schedule that breaks something is
//! printed, and `shuttle::replay` runs it again.

#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

#[expect(dead_code, reason = "shared with the tests that measure")]
#[path = "../../drisse/tests/prove/proof.rs"]
mod proof;
mod sync {
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
    pub(crate) use shuttle::thread::{Builder, JoinHandle};
}
#[expect(dead_code, reason = "the estimates of waiting times are tested elsewhere")]
#[path = "../src/schedule/workers.rs"]
mod workers;

use drisse_core::Cancel;
use shuttle::sync::{Barrier, mpsc};
use shuttle::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use workers::{Job, QueueHandle, Ticket};

/// Tests a model in random orders, and in orders with a few untimely switches (PCT).
fn holds_in_all_orders(claim: &str, model: fn()) {
    let rounds = if proof::whole() { 100_000 } else { 2_000 };
    let held = std::panic::catch_unwind(|| {
        shuttle::check_random(model, rounds / 2);
        shuttle::check_pct(model, rounds / 2, 3);
    });
    let figure = if held.is_ok() { "held in each" } else { "broken" };
    proof::holds("7. Supply chain", claim, figure, format!("{rounds} thread schedules"), held.is_ok());
}

/// Work that may share a run.
struct Step(bool, Box<dyn FnOnce() + Send>);

impl Job for Step {
    fn joins(&self, taken: &[Self]) -> bool {
        self.0 && taken.iter().all(|other| other.0)
    }

    fn run(jobs: Vec<Self>) {
        jobs.into_iter().for_each(|job| (job.1)());
    }
}

type Workers = workers::Workers<Step>;

/// Counts how often its work ran, and how often it was dropped.
#[derive(Clone, Default)]
struct Fate {
    /// Whether it may share a run.
    shares: bool,
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Fate {
    /// Pushes work that calls `then` once it has begun.
    fn push(
        &self,
        workers: &Workers,
        queue: &QueueHandle<Step>,
        cancel: &Cancel,
        then: impl FnOnce() + Send + 'static,
    ) -> Ticket<Step> {
        let (fate, dropped) = (self.clone(), Dropped(Arc::clone(&self.dropped)));
        let work = move || {
            // Other threads may run between the last check of the flag and this.
            thread::yield_now();
            fate.begun.fetch_add(1, SeqCst);
            then();
            drop(dropped);
        };
        let deadline = Instant::now() + Duration::from_secs(3600);
        workers.push(queue, 100, deadline, cancel, Step(self.shares, Box::new(work))).unwrap()
    }

    fn begun(&self) -> usize {
        self.begun.load(SeqCst)
    }

    fn dropped(&self) -> usize {
        self.dropped.load(SeqCst)
    }
}

/// Checks that a queue still runs as many jobs at once as it may: a lost turn would let a job wait for ever.
fn is_free(workers: &Workers, queue: &QueueHandle<Step>, concurrency: usize) {
    let together = Arc::new(Barrier::new(concurrency + 1));
    let meet = |_| {
        let together = Arc::clone(&together);
        Fate::default().push(workers, queue, &Cancel::never(), move || _ = together.wait())
    };
    let tickets: Vec<_> = (0..concurrency).map(meet).collect();
    together.wait();
    drop(tickets);
}

#[test]
fn every_job_runs_once_and_no_wake_up_is_lost() {
    holds_in_all_orders("queues of models: every job runs once, and none waits forever", || {
        let workers = Arc::new(Workers::start(2).unwrap());
        let queues = [workers.add_queue(1), workers.add_queue(2)].map(Arc::new);
        let fates: [Fate; 5] = Default::default();
        let (done, ended) = mpsc::channel();
        let push = |mine: &[(usize, usize)]| {
            let (workers, queues) = (Arc::clone(&workers), queues.clone());
            let (fates, done, mine) = (fates.clone(), done.clone(), mine.to_vec());
            thread::spawn(move || {
                let one = |(job, queue): (usize, usize)| {
                    let done = done.clone();
                    fates[job].push(&workers, &queues[queue], &Cancel::new(), move || done.send(()).unwrap())
                };
                mine.into_iter().map(one).collect::<Vec<_>>()
            })
        };
        let pushing = [push(&[(0, 0), (1, 1), (2, 0)]), push(&[(3, 1), (4, 0)])];
        let tickets = pushing.map(|thread| thread.join().unwrap());
        fates.iter().for_each(|_| ended.recv().unwrap());
        assert!(fates.iter().all(|fate| fate.begun() == 1));
        is_free(&workers, &queues[0], 1);
        is_free(&workers, &queues[1], 2);
        assert!(queues.iter().all(|queue| workers.waiting(queue) == 0));
        drop((tickets, workers));
        assert!(fates.iter().all(|fate| fate.dropped() == 1));
    });
}

#[test]
fn work_whose_ticket_is_gone_is_forgotten_or_canceled() {
    holds_in_all_orders(
        "queues of models: the work of a client that goes away is dropped or canceled",
        || {
            let workers = Arc::new(Workers::start(2).unwrap());
            let queue = Arc::new(workers.add_queue(1));
            let goes = |fate: Fate| {
                let (workers, queue) = (Arc::clone(&workers), Arc::clone(&queue));
                thread::spawn(move || {
                    let (cancel, gone) = (Cancel::new(), Arc::new(AtomicUsize::new(0)));
                    let look = {
                        let (cancel, gone) = (cancel.clone(), Arc::clone(&gone));
                        move || assert!(gone.load(SeqCst) == 0 || cancel.is_cancelled())
                    };
                    let ticket = fate.push(&workers, &queue, &cancel, look);
                    thread::yield_now();
                    drop(ticket);
                    gone.store(1, SeqCst);
                })
            };
            let fates: [Fate; 3] = Default::default();
            for thread in fates.each_ref().map(|fate| goes(fate.clone())) {
                thread.join().unwrap();
            }
            is_free(&workers, &queue, 1);
            drop(workers);
            assert!(fates.iter().all(|fate| fate.begun() <= 1 && fate.dropped() == 1));
        },
    );
}

#[test]
fn work_that_waits_when_its_ticket_goes_never_begins() {
    holds_in_all_orders(
        "queues of models: work that is still queued when its client goes away never begins",
        || {
            let workers = Workers::start(2).unwrap();
            let queue = workers.add_queue(1);
            let (open, gate) = mpsc::channel();
            let blocking =
                Fate::default().push(&workers, &queue, &Cancel::never(), move || gate.recv().unwrap());
            let (waits, stays) = (Fate::default(), Fate::default());
            let (done, ended) = mpsc::channel();
            let ticket = waits.push(&workers, &queue, &Cancel::never(), || ());
            let other = stays.push(&workers, &queue, &Cancel::never(), move || done.send(()).unwrap());
            drop(ticket);
            assert_eq!(waits.dropped(), 1);
            open.send(()).unwrap();
            ended.recv().unwrap();
            is_free(&workers, &queue, 1);
            assert_eq!((waits.begun(), stays.begun()), (0, 1));
            drop((blocking, other, workers));
        },
    );
}

#[test]
fn workers_that_stop_leave_no_job_and_no_thread_behind() {
    holds_in_all_orders("queues of models: a server that stops leaves no jobs and no threads behind", || {
        let workers = Workers::start(2).unwrap();
        let queues = [workers.add_queue(2), workers.add_queue(1)];
        let fates: [Fate; 4] = Default::default();
        let push =
            |(nth, fate): (usize, &Fate)| fate.push(&workers, &queues[nth % 2], &Cancel::never(), || ());
        let tickets: Vec<_> = fates.iter().enumerate().map(push).collect();
        drop(workers);
        assert!(fates.iter().all(|fate| fate.begun() <= 1 && fate.dropped() == 1));
        drop(tickets);
    });
}

#[test]
fn jobs_that_share_a_run_are_each_done_once() {
    holds_in_all_orders("queues of models: requests that share a run are each answered once", || {
        let workers = Arc::new(Workers::start(2).unwrap());
        let queue = Arc::new(workers.add_queue(2));
        let fates: [Fate; 5] = std::array::from_fn(|nth| Fate { shares: nth != 2, ..Fate::default() });
        let (done, ended) = mpsc::channel();
        let push = |mine: &[usize]| {
            let (workers, queue) = (Arc::clone(&workers), Arc::clone(&queue));
            let (mine, done): (Vec<Fate>, _) =
                (mine.iter().map(|&nth| fates[nth].clone()).collect(), done.clone());
            thread::spawn(move || {
                let one = |fate: Fate| {
                    let done = done.clone();
                    fate.push(&workers, &queue, &Cancel::new(), move || done.send(()).unwrap())
                };
                mine.into_iter().map(one).collect::<Vec<_>>()
            })
        };
        let pushing = [push(&[0, 1, 2]), push(&[3, 4])];
        let tickets = pushing.map(|thread| thread.join().unwrap());
        fates.iter().for_each(|_| ended.recv().unwrap());
        assert!(fates.iter().all(|fate| fate.begun() == 1));
        is_free(&workers, &queue, 2);
        drop((tickets, workers));
        assert!(fates.iter().all(|fate| fate.dropped() == 1));
    });
}
