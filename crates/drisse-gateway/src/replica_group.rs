//! The replicas of one revision, and the queue in front of them.

use crate::metrics::ServiceMetrics;
use crate::replica::{InFlight, Replica};
use crate::sync::{AcquireError, AtomicU32, OwnedSemaphorePermit, Semaphore, TryAcquireError, timeout_at};
use drisse_core::{MaxWait, ServiceTime};
use drisse_wire::routes::RouteRevision;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The replicas of one revision. They share one queue, and as many permits as they accept concurrent requests.
#[derive(Debug)]
pub(crate) struct ReplicaGroup {
    pub(crate) weight: u64,
    pub(crate) replicas: Vec<Arc<Replica>>,
    free: Arc<Semaphore>,
    /// The permits in `free` when no request is in flight.
    permits: usize,
    queued: AtomicU32,
    /// How long requests hold their permits.
    times: Arc<ServiceTime>,
}

/// The right to send one request to a replica, until dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: InFlight,
    /// `None` for requests that bypass the queue.
    queue: Option<QueuePermit>,
}

#[derive(Debug)]
struct QueuePermit {
    requested: Instant,
    granted: Instant,
    /// The estimated time between `requested` and `granted`.
    wait: Duration,
    times: Arc<ServiceTime>,
    _permit: OwnedSemaphorePermit,
}

/// Why a request got no permit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PermitError {
    /// The routes changed: the request must use the newer ones.
    #[error("the routes changed")]
    RoutesChanged,
    /// The estimated wait for a replica is too long.
    #[error("a replica would be free in about {} ms, which is too late", .0.as_millis())]
    TooLong(Duration),
    /// No replica was free within this time.
    #[error("no replica was free within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// The time limits of a request that asks for a permit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// When the request arrived.
    pub(crate) started: Instant,
    /// How long it may wait for a permit.
    pub(crate) max_wait: MaxWait,
    /// When the answer must be there.
    pub(crate) deadline: Instant,
}

/// Counts a request as queued until dropped.
struct InQueue<'a>(&'a AtomicU32);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl ReplicaGroup {
    /// Creates the group of a revision. Replicas among `known` keep their connections and counts. Blocks as
    /// [`Replica::new`] does.
    ///
    /// # Errors
    /// Returns the reason if the route of a replica cannot be used.
    pub(crate) fn new<'a, I: Iterator<Item = &'a Arc<Replica>>>(
        revision: &RouteRevision,
        known: &impl Fn() -> I,
        cores: usize,
        times: &Arc<ServiceTime>,
    ) -> Result<Self, String> {
        let mut replicas = Vec::new();
        let mut permits = 0;
        for document in &revision.replicas {
            permits += document.concurrency.clamp(1, 1 << 16) as usize;
            replicas.push(match known().find(|replica| replica.document == *document) {
                Some(same) => Arc::clone(same),
                None => Arc::new(Replica::new(document, cores)?),
            });
        }
        let permits = permits.min(Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(permits));
        let (weight, times) = (u64::from(revision.weight), Arc::clone(times));
        Ok(Self { weight, replicas, free, permits, queued: AtomicU32::new(0), times })
    }

    /// Returns a permit for the replica with the fewest requests in flight, if necessary after a wait. A request whose
    /// estimated wait is too long is refused at once, unless no other request is in flight: then it is sent whatever
    /// the estimate, so that the estimate can recover. Replicas in `avoid` have just failed.
    ///
    /// # Errors
    /// Returns an error if the routes change, or if the wait is or would be too long.
    pub(crate) async fn permit(
        &self,
        patience: Patience,
        avoid: &[Arc<Replica>],
        metrics: &ServiceMetrics,
    ) -> Result<Permit, PermitError> {
        let requested = Instant::now();
        let (permit, wait) = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(_)
                if self.is_shared() && requested + self.times.needed(Duration::ZERO) > patience.deadline =>
            {
                return Err(PermitError::TooLong(Duration::ZERO));
            }
            Ok(permit) => (permit, Duration::ZERO),
            Err(TryAcquireError::Closed) => return Err(PermitError::RoutesChanged),
            Err(TryAcquireError::NoPermits) => self.queue(patience, metrics).await?,
        };
        let times = Arc::clone(&self.times);
        let queue = QueuePermit { requested, granted: Instant::now(), wait, times, _permit: permit };
        Ok(Permit { in_flight: self.least(avoid).begin(), queue: Some(queue) })
    }

    async fn queue(
        &self,
        patience: Patience,
        metrics: &ServiceMetrics,
    ) -> Result<(OwnedSemaphorePermit, Duration), PermitError> {
        let queued = self.queued.fetch_add(1, Relaxed) as usize;
        let _in_queue = InQueue(&self.queued);
        // Some of them may have got their permits, and not run since.
        let ahead = queued.saturating_sub(self.granted());
        // Each permit is released once per `mean`; in the worst case, all of them at the same time.
        let mean = self.times.mean();
        let rounds = ahead / self.permits.max(1) + 1;
        let wait = mean.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        let now = Instant::now();
        let waited = now.saturating_duration_since(patience.started);
        if waited + wait > patience.max_wait.of(mean) || now + self.times.needed(wait) > patience.deadline {
            return Err(PermitError::TooLong(wait));
        }
        let _waiting = metrics.waiting();
        match self.acquire(patience).await {
            Some(Ok(permit)) => Ok((permit, wait)),
            Some(Err(_)) => Err(PermitError::RoutesChanged),
            None => {
                // The answer would have taken another `mean`.
                self.times.learn_estimate_error(wait + mean, now.elapsed() + mean);
                Err(PermitError::TimedOut(now.elapsed()))
            }
        }
    }

    /// Waits for a permit; `None` if the request has waited too long.
    async fn acquire(&self, patience: Patience) -> Option<Result<OwnedSemaphorePermit, AcquireError>> {
        let mut permit = pin!(Arc::clone(&self.free).acquire_owned());
        loop {
            let mean = self.times.mean();
            let until = patience.max_wait.until(patience.started, mean, patience.deadline);
            // A request that gets its permit later than this would not be answered in time.
            let until = until.min(patience.deadline.checked_sub(mean).unwrap_or(patience.deadline));
            let step = patience.max_wait.look_again(until);
            match timeout_at(step.into(), permit.as_mut()).await {
                Ok(acquired) => return Some(acquired),
                Err(_) if step < until => {}
                Err(_) => return None,
            }
        }
    }

    /// Returns the number of permits that were granted to requests which are not in flight yet.
    fn granted(&self) -> usize {
        let in_flight: u32 = self.replicas.iter().map(|replica| replica.in_flight()).sum();
        let held = self.permits.saturating_sub(self.free.available_permits());
        held.saturating_sub(in_flight as usize)
    }

    /// Returns whether more than one request holds a permit.
    fn is_shared(&self) -> bool {
        self.free.available_permits() + 1 < self.permits
    }

    /// Returns a permit that does not count against the concurrency of the replicas.
    pub(crate) fn bypass_queue(&self, avoid: &[Arc<Replica>]) -> Permit {
        Permit { in_flight: self.least(avoid).begin(), queue: None }
    }

    /// Makes queued requests use the newer routes.
    pub(crate) fn retire(&self) {
        self.free.close();
    }

    /// Returns whether a request holds a permit. A request holds it from the moment it is granted, before it is sent.
    pub(crate) fn is_busy(&self) -> bool {
        self.free.available_permits() < self.permits
    }

    /// Returns the replica with the fewest requests in flight, relative to its concurrency.
    fn least(&self, avoid: &[Arc<Replica>]) -> &Arc<Replica> {
        let good = |replica: &&Arc<Replica>| avoid.iter().all(|avoid| !Arc::ptr_eq(replica, avoid));
        let load = |replica: &&Arc<Replica>| {
            u64::from(replica.in_flight()) * 1000 / u64::from(replica.document.concurrency.max(1))
        };
        let least = self.replicas.iter().filter(good).min_by_key(load);
        least.unwrap_or(&self.replicas[0])
    }
}

impl Permit {
    pub(crate) fn replica(&self) -> &Arc<Replica> {
        self.in_flight.replica()
    }

    /// Releases the permit after an answer. The time that it was held improves the estimate of later waits.
    pub(crate) fn answered(self) {
        if let Some(QueuePermit { requested, granted, wait, times, .. }) = &self.queue {
            times.learn_estimate_error(*wait + times.mean(), requested.elapsed());
            times.learn(granted.elapsed());
        }
    }
}
