//! The threads that run models, and the bounded queues in front of them: one lane per model. Busy lanes share the
//! threads by time, so that a model with long runs does not starve one with short ones.

use crate::sync::{Arc, Builder, Condvar, JoinHandle, Mutex, MutexGuard, PoisonError};
use drisse_core::Cancel;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Of what waits in a lane, so many jobs are looked at for a run to share.
const LOOKED_AT: usize = 256;

/// A piece of work. Dropped without being run when its deadline passed or nobody waits for it.
pub(crate) trait Job: Send + Sized + 'static {
    /// Whether it may share the run of those that were `taken`, of which there is one at least.
    fn joins(&self, taken: &[Self]) -> bool;

    /// Does the work of all. What they share has begun when the first is told so.
    fn run(jobs: Vec<Self>);
}

/// A model's lane, which ends when this is dropped. Work holds its model, so a lane that ends is empty.
pub(crate) struct LaneHandle<J: Job> {
    id: LaneId,
    /// Jobs that wait or run.
    load: Arc<AtomicUsize>,
    shared: Arc<Shared<J>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct LaneId(u64);

struct Waiting<J> {
    id: u64,
    deadline: Instant,
    cancel: Cancel,
    job: J,
}

struct Lane<J> {
    jobs: VecDeque<Waiting<J>>,
    /// When each run under way began.
    running: Vec<Instant>,
    concurrency: usize,
    load: Arc<AtomicUsize>,
    /// The threads' time it has had; of one that was idle, no less than others had meanwhile.
    used: Duration,
    /// Its place in `State::turns`, while it stands there.
    turn: Option<Duration>,
}

struct State<J> {
    lanes: HashMap<LaneId, Lane<J>>,
    /// Lanes that have a job and may run one more, those that had least time first.
    turns: BTreeSet<(Duration, LaneId)>,
    /// The time that the lane had whose turn came last.
    clock: Duration,
    next: u64,
    stopping: bool,
}

/// The pool. Dropping the last handle ends its threads once they are idle.
pub(crate) struct Workers<J: Job> {
    shared: Arc<Shared<J>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<J: Job> {
    state: Mutex<State<J>>,
    wake: Condvar,
}

/// A place in a queue, given up when dropped: work that did not start is forgotten, work
/// under way is told to end.
pub(crate) struct Ticket<J: Job> {
    shared: Arc<Shared<J>>,
    lane: LaneId,
    job: u64,
    cancel: Cancel,
}

impl<J: Job> Workers<J> {
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let state = State {
            lanes: HashMap::new(),
            turns: BTreeSet::new(),
            clock: Duration::ZERO,
            next: 0,
            stopping: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let thread = |nth| {
            let shared = Arc::clone(&shared);
            Builder::new().name(format!("worker-{nth}")).spawn(move || shared.work())
        };
        let threads = (0..threads.max(1)).map(thread).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// A lane for a model that gains from `concurrency` runs at once.
    pub(crate) fn add_lane(&self, concurrency: usize) -> LaneHandle<J> {
        let mut state = self.shared.lock();
        state.next += 1;
        let id = LaneId(state.next);
        let load = Arc::new(AtomicUsize::new(0));
        let lane = Lane {
            jobs: VecDeque::new(),
            running: vec![],
            concurrency: concurrency.clamp(1, self.threads.len()),
            load: Arc::clone(&load),
            used: Duration::ZERO,
            turn: None,
        };
        state.lanes.insert(id, lane);
        LaneHandle { id, load, shared: Arc::clone(&self.shared) }
    }

    /// How many jobs wait in a lane.
    pub(crate) fn waiting(&self, lane: &LaneHandle<J>) -> usize {
        self.shared.lock().lanes.get(&lane.id).map_or(0, |lane| lane.jobs.len())
    }

    /// When one more job would begin, if each run takes `run`, of which each of the jobs that share it has `share`;
    /// none where it would have the lane to itself.
    pub(crate) fn wait(&self, lane: &LaneHandle<J>, run: Duration, share: Duration) -> Option<Duration> {
        if lane.load.load(Relaxed) == 0 {
            return None;
        }
        let state = self.shared.lock();
        let busy = state.lanes.values().filter(|lane| lane.load.load(Relaxed) > 0).count();
        let lane = state.lanes.get(&lane.id)?;
        let ahead = lane.jobs.len();
        let mut left: Vec<_> = lane.running.iter().map(|began| run.saturating_sub(began.elapsed())).collect();
        left.resize(lane.concurrency, Duration::ZERO);
        left.sort();
        // Jobs may wait though turns are free: their thread has not woken up yet. Those before it take the
        // turns as they come free, then whole rounds of runs; and lanes share the threads.
        let rounds = u32::try_from(ahead / left.len()).unwrap_or(u32::MAX);
        let stretch = (busy * lane.concurrency).div_ceil(self.threads.len()).clamp(1, busy.max(1));
        let stretch = u32::try_from(stretch).unwrap_or(u32::MAX);
        Some(share.saturating_mul(rounds).saturating_mul(stretch) + left[ahead % left.len()])
    }

    /// Puts work at the end of a lane; `None` when `max` jobs wait there already.
    pub(crate) fn push(
        &self,
        lane: &LaneHandle<J>,
        max: usize,
        deadline: Instant,
        cancel: &Cancel,
        job: J,
    ) -> Option<Ticket<J>> {
        let mut state = self.shared.lock();
        state.next += 1;
        let id = state.next;
        let queue = state.lanes.get_mut(&lane.id)?;
        if queue.jobs.len() >= max {
            return None;
        }
        queue.jobs.push_back(Waiting { id, deadline, cancel: cancel.clone(), job });
        queue.load.fetch_add(1, Relaxed);
        state.take_turn(lane.id);
        drop(state);
        self.shared.wake.notify_one();
        Some(Ticket { shared: Arc::clone(&self.shared), lane: lane.id, job: id, cancel: cancel.clone() })
    }
}

impl<J: Job> Drop for Workers<J> {
    fn drop(&mut self) {
        let forgotten: Vec<Waiting<J>> = {
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

impl<J: Job> Drop for LaneHandle<J> {
    fn drop(&mut self) {
        let ended = self.shared.lock().lanes.remove(&self.id);
        // Its drop may take locks of its own: not under ours.
        drop(ended);
    }
}

impl<J: Job> Drop for Ticket<J> {
    fn drop(&mut self) {
        let forgotten = {
            let mut state = self.shared.lock();
            state.lanes.get_mut(&self.lane).and_then(|lane| {
                let place = lane.jobs.iter().position(|waiting| waiting.id == self.job)?;
                lane.load.fetch_sub(1, Relaxed);
                lane.jobs.remove(place)
            })
        };
        // Its drop may take locks of its own: not under ours.
        drop(forgotten);
        self.cancel.cancel();
    }
}

impl<J: Job> State<J> {
    fn take_turn(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.turn.is_none() && !lane.jobs.is_empty() && lane.running.len() < lane.concurrency {
            lane.used = lane.used.max(self.clock);
            lane.turn = Some(lane.used);
            self.turns.insert((lane.used, id));
        }
    }

    /// The lane whose turn it is.
    fn next_turn(&mut self) -> Option<LaneId> {
        let (used, id) = self.turns.pop_first()?;
        self.clock = used;
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.turn = None;
        }
        Some(id)
    }
}

impl<J: Job> Lane<J> {
    /// The jobs of the next run: the first, and those behind it that may share it. What waits is shared by the
    /// turns that are free. The others are those it was too late for.
    fn take(&mut self) -> (Vec<J>, Vec<J>) {
        let free = self.concurrency.saturating_sub(self.running.len()).max(1);
        let most = self.jobs.len().div_ceil(free);
        let (now, mut place) = (Instant::now(), 0);
        let (mut taken, mut over) = (Vec::new(), Vec::new());
        while taken.len() < most.max(1) && place < self.jobs.len().min(LOOKED_AT) {
            let next = &self.jobs[place];
            let ended = next.cancel.is_cancelled() || next.deadline <= now;
            if !ended && !taken.is_empty() && !next.job.joins(&taken) {
                place += 1;
            } else if let Some(next) = self.jobs.remove(place) {
                if ended { over.push(next.job) } else { taken.push(next.job) }
            }
        }
        (taken, over)
    }
}

impl<J: Job> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(id) = state.next_turn() else {
                if state.stopping {
                    return;
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(lane) = state.lanes.get_mut(&id) else { continue };
            let (jobs, over) = lane.take();
            let gone = jobs.len() + over.len();
            let began = Instant::now();
            lane.running.push(began);
            state.take_turn(id);
            let more = !state.turns.is_empty();
            drop(state);
            if more {
                self.wake.notify_one();
            }
            drop(over);
            if !jobs.is_empty() {
                J::run(jobs);
            }
            state = self.lock();
            if let Some(lane) = state.lanes.get_mut(&id) {
                lane.used += began.elapsed();
                lane.load.fetch_sub(gone, Relaxed);
                if let Some(place) = lane.running.iter().position(|other| *other == began) {
                    lane.running.swap_remove(place);
                }
            }
            state.take_turn(id);
        }
    }
}
