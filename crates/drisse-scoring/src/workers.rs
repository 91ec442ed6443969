//! The threads that run models, and the bounded queues in front of them: one lane per model,
//! served in turn, so that a busy model does not starve the others.

use crate::sync::{Arc, Builder, Condvar, JoinHandle, Mutex, MutexGuard, PoisonError};
use drisse_core::Cancel;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A piece of work. Dropped without being called when its deadline passed or nobody waits for it.
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// A model's lane, which ends when this is dropped. Work holds its model, so a lane that ends is empty.
pub(crate) struct LaneHandle {
    id: LaneId,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct LaneId(u64);

struct Job {
    id: u64,
    deadline: Instant,
    cancel: Cancel,
    work: Work,
}

struct Lane {
    jobs: VecDeque<Job>,
    /// When each run under way began.
    running: Vec<Instant>,
    concurrency: usize,
    /// Whether the lane stands in `State::turns`.
    queued: bool,
}

#[derive(Default)]
struct State {
    lanes: HashMap<LaneId, Lane>,
    /// Lanes that have a job and may run one more.
    turns: VecDeque<LaneId>,
    next: u64,
    stopping: bool,
}

/// The pool. Dropping the last handle ends its threads once they are idle.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

/// A place in a queue, given up when dropped: work that did not start is forgotten, work
/// under way is told to end.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    lane: LaneId,
    job: u64,
    cancel: Cancel,
}

impl Workers {
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new() });
        let thread = |nth| {
            let shared = Arc::clone(&shared);
            Builder::new().name(format!("worker-{nth}")).spawn(move || shared.work())
        };
        let threads = (0..threads.max(1)).map(thread).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// A lane for a model that gains from `concurrency` runs at once.
    pub(crate) fn add_lane(&self, concurrency: usize) -> LaneHandle {
        let mut state = self.shared.lock();
        state.next += 1;
        let id = LaneId(state.next);
        let concurrency = concurrency.clamp(1, self.threads.len());
        let lane = Lane { jobs: VecDeque::new(), running: vec![], concurrency, queued: false };
        state.lanes.insert(id, lane);
        LaneHandle { id, shared: Arc::clone(&self.shared) }
    }

    /// How many jobs wait in a lane.
    pub(crate) fn waiting(&self, lane: &LaneHandle) -> usize {
        self.shared.lock().lanes.get(&lane.id).map_or(0, |lane| lane.jobs.len())
    }

    /// When one more job would begin, if each run takes `run`; none where it would have the lane to itself.
    pub(crate) fn wait(&self, lane: &LaneHandle, run: Duration) -> Option<Duration> {
        let state = self.shared.lock();
        let lane = state.lanes.get(&lane.id)?;
        let ahead = lane.jobs.len();
        if lane.running.len() + ahead == 0 {
            return None;
        }
        let mut left: Vec<_> = lane.running.iter().map(|began| run.saturating_sub(began.elapsed())).collect();
        left.resize(lane.concurrency, Duration::ZERO);
        left.sort();
        // Jobs may wait though turns are free: their thread has not woken up yet. Those before it take the
        // turns as they come free, then whole rounds of runs.
        let rounds = u32::try_from(ahead / left.len()).unwrap_or(u32::MAX);
        Some(run.saturating_mul(rounds) + left[ahead % left.len()])
    }

    /// Puts work at the end of a lane; `None` when `max` jobs wait there already.
    pub(crate) fn push(
        &self,
        lane: &LaneHandle,
        max: usize,
        deadline: Instant,
        cancel: &Cancel,
        work: Work,
    ) -> Option<Ticket> {
        let mut state = self.shared.lock();
        state.next += 1;
        let id = state.next;
        let queue = state.lanes.get_mut(&lane.id)?;
        if queue.jobs.len() >= max {
            return None;
        }
        queue.jobs.push_back(Job { id, deadline, cancel: cancel.clone(), work });
        state.take_turn(lane.id);
        drop(state);
        self.shared.wake.notify_one();
        Some(Ticket { shared: Arc::clone(&self.shared), lane: lane.id, job: id, cancel: cancel.clone() })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let forgotten: Vec<Job> = {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.lanes.values_mut().flat_map(|lane| lane.jobs.drain(..)).collect()
        };
        drop(forgotten);
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // Work is caught where it panics; a thread that panicked all the same has ended.
            let _ = thread.join();
        }
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        let ended = self.shared.lock().lanes.remove(&self.id);
        // Its drop may take locks of its own: not under ours.
        drop(ended);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let forgotten = {
            let mut state = self.shared.lock();
            state.lanes.get_mut(&self.lane).and_then(|lane| {
                let place = lane.jobs.iter().position(|job| job.id == self.job)?;
                lane.jobs.remove(place)
            })
        };
        // Its drop may take locks of its own: not under ours.
        drop(forgotten);
        self.cancel.cancel();
    }
}

impl State {
    fn take_turn(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if !lane.queued && !lane.jobs.is_empty() && lane.running.len() < lane.concurrency {
            lane.queued = true;
            self.turns.push_back(id);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(id) = state.turns.pop_front() else {
                if state.stopping {
                    return;
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(lane) = state.lanes.get_mut(&id) else { continue };
            lane.queued = false;
            let Some(job) = lane.jobs.pop_front() else { continue };
            let began = Instant::now();
            lane.running.push(began);
            state.take_turn(id);
            let more = !state.turns.is_empty();
            drop(state);
            if more {
                self.wake.notify_one();
            }
            if job.cancel.is_cancelled() || job.deadline <= Instant::now() {
                drop(job);
            } else {
                (job.work)();
            }
            state = self.lock();
            if let Some(lane) = state.lanes.get_mut(&id)
                && let Some(place) = lane.running.iter().position(|other| *other == began)
            {
                lane.running.swap_remove(place);
            }
            state.take_turn(id);
        }
    }
}
