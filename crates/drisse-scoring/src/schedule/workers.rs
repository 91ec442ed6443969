//! The threads that run models, and the bounded queues in front of them: one queue per model. Busy queues share the
//! threads by time, so that a model with long runs does not starve a model with short runs.

use crate::sync::{Arc, Builder, Condvar, JoinHandle, Mutex, MutexGuard, PoisonError};
use drisse_core::Cancel;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The number of jobs at the front of a queue that are candidates for a shared run.
const CANDIDATES: usize = 256;

/// A unit of work. A job is dropped without being run if its deadline has passed or its ticket was dropped.
pub(crate) trait Job: Send + Sized + 'static {
    /// Returns whether this job may share the run of the `taken` jobs, of which there is at least one.
    fn joins(&self, taken: &[Self]) -> bool;

    /// Runs the jobs together, on the thread that calls this.
    fn run(jobs: Vec<Self>);
}

/// A model's queue, which is removed when this handle is dropped. Every job holds its model, and the model holds this
/// handle, so a removed queue is empty.
pub(crate) struct QueueHandle<J: Job> {
    id: QueueId,
    /// The number of jobs that wait or run.
    load: Arc<AtomicUsize>,
    pool: Arc<Pool<J>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
struct QueueId(u64);

struct QueuedJob<J> {
    id: u64,
    deadline: Instant,
    cancel: Cancel,
    job: J,
}

struct JobQueue<J> {
    jobs: VecDeque<QueuedJob<J>>,
    /// When each current run began.
    running: Vec<Instant>,
    concurrency: usize,
    load: Arc<AtomicUsize>,
    /// The thread time that the queue has used. It is raised to `State::clock` after an idle time, so that a queue
    /// cannot save up time.
    used: Duration,
    /// The queue's key in `State::turns`, while it is there.
    turn: Option<Duration>,
}

struct State<J> {
    queues: HashMap<QueueId, JobQueue<J>>,
    /// The queues that have a job and may start a run, those with the least used time first.
    turns: BTreeSet<(Duration, QueueId)>,
    /// The used time of the queue that had the last turn.
    clock: Duration,
    next: u64,
    stopping: bool,
}

/// The worker threads. Dropping this drops the waiting jobs, and joins the threads after their current runs.
pub(crate) struct Workers<J: Job> {
    pool: Arc<Pool<J>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads and all handles share.
struct Pool<J: Job> {
    state: Mutex<State<J>>,
    wake: Condvar,
}

/// A pushed job. Dropping the ticket removes the job from its queue or, if its run has begun, cancels the run.
pub(crate) struct Ticket<J: Job> {
    pool: Arc<Pool<J>>,
    queue: QueueId,
    job: u64,
    cancel: Cancel,
}

impl<J: Job> Workers<J> {
    /// Starts the threads, at least one.
    ///
    /// # Errors
    /// Returns the system's error if a thread cannot be started.
    pub(crate) fn start(threads: usize) -> std::io::Result<Self> {
        let state = State {
            queues: HashMap::new(),
            turns: BTreeSet::new(),
            clock: Duration::ZERO,
            next: 0,
            stopping: false,
        };
        let pool = Arc::new(Pool { state: Mutex::new(state), wake: Condvar::new() });
        let thread = |nth| {
            let pool = Arc::clone(&pool);
            Builder::new().name(format!("worker-{nth}")).spawn(move || pool.work())
        };
        let threads = (0..threads.max(1)).map(thread).collect::<Result<_, _>>()?;
        Ok(Self { pool, threads })
    }

    /// Adds a queue for a model with `concurrency` runs at once.
    pub(crate) fn add_queue(&self, concurrency: usize) -> QueueHandle<J> {
        let mut state = self.pool.lock();
        state.next += 1;
        let id = QueueId(state.next);
        let load = Arc::new(AtomicUsize::new(0));
        let queue = JobQueue {
            jobs: VecDeque::new(),
            running: vec![],
            concurrency: concurrency.clamp(1, self.threads.len()),
            load: Arc::clone(&load),
            used: Duration::ZERO,
            turn: None,
        };
        state.queues.insert(id, queue);
        QueueHandle { id, load, pool: Arc::clone(&self.pool) }
    }

    /// Returns the number of jobs that wait in a queue.
    pub(crate) fn waiting(&self, queue: &QueueHandle<J>) -> usize {
        self.pool.lock().queues.get(&queue.id).map_or(0, |queue| queue.jobs.len())
    }

    /// Estimates the wait of a new job. `run`: the mean time of a run; `amortized`: a job's part of it if jobs share
    /// runs. `None` if no job waits or runs.
    pub(crate) fn wait(
        &self,
        queue: &QueueHandle<J>,
        run: Duration,
        amortized: Duration,
    ) -> Option<Duration> {
        if queue.load.load(Relaxed) == 0 {
            return None;
        }
        let state = self.pool.lock();
        let busy = state.queues.values().filter(|queue| queue.load.load(Relaxed) > 0).count();
        let queue = state.queues.get(&queue.id)?;
        let ahead = queue.jobs.len();
        let mut left: Vec<_> =
            queue.running.iter().map(|began| run.saturating_sub(began.elapsed())).collect();
        left.resize(queue.concurrency, Duration::ZERO);
        left.sort();
        // Jobs can wait although turns are free: their thread has not woken up yet. The jobs ahead take the turns as
        // they become free, then whole rounds of runs; and busy queues share the threads.
        let rounds = u32::try_from(ahead / left.len()).unwrap_or(u32::MAX);
        let stretch = (busy * queue.concurrency).div_ceil(self.threads.len()).clamp(1, busy.max(1));
        let stretch = u32::try_from(stretch).unwrap_or(u32::MAX);
        Some(amortized.saturating_mul(rounds).saturating_mul(stretch) + left[ahead % left.len()])
    }

    /// Appends a job to a queue; `None` if `max` jobs wait there already.
    pub(crate) fn push(
        &self,
        queue: &QueueHandle<J>,
        max: usize,
        deadline: Instant,
        cancel: &Cancel,
        job: J,
    ) -> Option<Ticket<J>> {
        let mut state = self.pool.lock();
        state.next += 1;
        let id = state.next;
        let jobs = state.queues.get_mut(&queue.id)?;
        if jobs.jobs.len() >= max {
            return None;
        }
        jobs.jobs.push_back(QueuedJob { id, deadline, cancel: cancel.clone(), job });
        jobs.load.fetch_add(1, Relaxed);
        state.take_turn(queue.id);
        drop(state);
        self.pool.wake.notify_one();
        Some(Ticket { pool: Arc::clone(&self.pool), queue: queue.id, job: id, cancel: cancel.clone() })
    }
}

impl<J: Job> Drop for Workers<J> {
    fn drop(&mut self) {
        let forgotten: Vec<QueuedJob<J>> = {
            let mut state = self.pool.lock();
            state.stopping = true;
            state.queues.values_mut().flat_map(|queue| queue.jobs.drain(..)).collect()
        };
        drop(forgotten);
        self.pool.wake.notify_all();
        for thread in self.threads.drain(..) {
            // Panics of jobs are caught; a thread that panicked nevertheless has ended.
            let _ = thread.join();
        }
    }
}

impl<J: Job> Drop for QueueHandle<J> {
    fn drop(&mut self) {
        let removed = self.pool.lock().queues.remove(&self.id);
        // Dropping a job can take other locks: not while this lock is held.
        drop(removed);
    }
}

impl<J: Job> Drop for Ticket<J> {
    fn drop(&mut self) {
        let forgotten = {
            let mut state = self.pool.lock();
            state.queues.get_mut(&self.queue).and_then(|queue| {
                let index = queue.jobs.iter().position(|queued| queued.id == self.job)?;
                queue.load.fetch_sub(1, Relaxed);
                queue.jobs.remove(index)
            })
        };
        // Dropping a job can take other locks: not while this lock is held.
        drop(forgotten);
        self.cancel.cancel();
    }
}

impl<J: Job> State<J> {
    /// Gives the queue a turn if it has a job and may start a run.
    fn take_turn(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.turn.is_none() && !queue.jobs.is_empty() && queue.running.len() < queue.concurrency {
            queue.used = queue.used.max(self.clock);
            queue.turn = Some(queue.used);
            self.turns.insert((queue.used, id));
        }
    }

    /// Removes and returns the queue that has the next turn.
    fn next_turn(&mut self) -> Option<QueueId> {
        let (used, id) = self.turns.pop_first()?;
        self.clock = used;
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.turn = None;
        }
        Some(id)
    }
}

impl<J: Job> JobQueue<J> {
    /// Removes the jobs of the next run: the first, and the jobs behind it that may share the run. The free turns
    /// share the waiting jobs evenly. Also returns the jobs that were canceled or are too late.
    fn take(&mut self) -> (Vec<J>, Vec<J>) {
        let free = self.concurrency.saturating_sub(self.running.len()).max(1);
        let most = self.jobs.len().div_ceil(free);
        let (now, mut index) = (Instant::now(), 0);
        let (mut taken, mut over) = (Vec::new(), Vec::new());
        while taken.len() < most.max(1) && index < self.jobs.len().min(CANDIDATES) {
            let next = &self.jobs[index];
            let ended = next.cancel.is_cancelled() || next.deadline <= now;
            if !ended && !taken.is_empty() && !next.job.joins(&taken) {
                index += 1;
            } else if let Some(next) = self.jobs.remove(index) {
                if ended { over.push(next.job) } else { taken.push(next.job) }
            }
        }
        (taken, over)
    }
}

impl<J: Job> Pool<J> {
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of a thread.
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
            let Some(queue) = state.queues.get_mut(&id) else { continue };
            let (jobs, over) = queue.take();
            let gone = jobs.len() + over.len();
            let began = Instant::now();
            queue.running.push(began);
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
            if let Some(queue) = state.queues.get_mut(&id) {
                queue.used += began.elapsed();
                queue.load.fetch_sub(gone, Relaxed);
                if let Some(index) = queue.running.iter().position(|other| *other == began) {
                    queue.running.swap_remove(index);
                }
            }
            state.take_turn(id);
        }
    }
}
