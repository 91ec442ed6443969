//! The replicas of one revision, and the line in front of them.

use crate::metrics::ServiceMetrics;
use crate::replica::{Endpoint, InFlight, Replica};
use crate::sync::{AtomicU32, OwnedSemaphorePermit, Semaphore, TryAcquireError, timeout_at};
use drisse_core::ServiceTime;
use drisse_wire::routes::RouteRevision;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// As many permits as its replicas take requests at once: who waits for a permit stands in one line for all
/// of them.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) weight: u64,
    pub(crate) replicas: Vec<Arc<Replica>>,
    free: Arc<Semaphore>,
    /// Of `free` when nothing is under way.
    permits: usize,
    waiting: AtomicU32,
    /// How long requests keep their place.
    times: Arc<ServiceTime>,
}

/// A place at a replica, given up when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) in_flight: InFlight,
    /// None for what takes no place: probes, which strangers may send.
    place: Option<Taken>,
}

#[derive(Debug)]
struct Taken {
    /// When it was asked for, and when it was had.
    asked: Instant,
    since: Instant,
    /// How long it was to wait.
    wait: Duration,
    times: Arc<ServiceTime>,
    _permit: OwnedSemaphorePermit,
}

/// Why there is no place.
#[derive(Debug)]
pub(crate) enum Full {
    /// The routes changed: ask the new ones.
    Closed,
    /// It would take this long, which is too long.
    TooLong(Duration),
    /// None was free in this time.
    Waited(Duration),
}

/// By when a place is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The longest wait for a place.
    pub(crate) until: Instant,
    /// When the answer must be there.
    pub(crate) deadline: Instant,
}

/// Counts who waits until dropped.
struct InLine<'a>(&'a AtomicU32);

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Group {
    /// From a document; replicas among `known` keep their connections and counts.
    pub(crate) fn new<'a, I: Iterator<Item = &'a Arc<Replica>>>(
        revision: &RouteRevision,
        known: &impl Fn() -> I,
        cores: usize,
        times: &Arc<ServiceTime>,
    ) -> Result<Self, String> {
        let mut replicas = Vec::new();
        let mut permits = 0;
        for document in &revision.replicas {
            let endpoint = Endpoint::parse(&document.address)
                .ok_or_else(|| format!("`{}` is no address of a replica", document.address))?;
            permits += document.concurrency.clamp(1, 1 << 16) as usize;
            let same = known().find(|replica| replica.document == *document);
            replicas.push(
                same.cloned().unwrap_or_else(|| Arc::new(Replica::new(document.clone(), endpoint, cores))),
            );
        }
        let permits = permits.min(Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(permits));
        let (weight, times) = (u64::from(revision.weight), Arc::clone(times));
        Ok(Self { weight, replicas, free, permits, waiting: AtomicU32::new(0), times })
    }

    /// A place at the replica with the least under way, at once or in time. Whoever would not get one in time
    /// is told so at once; where nothing else is under way it is tried whatever was learned, and so learned
    /// anew. `avoid` have just failed.
    pub(crate) async fn slot(
        &self,
        patience: Patience,
        avoid: &[Arc<Replica>],
        metrics: &ServiceMetrics,
    ) -> Result<Slot, Full> {
        let asked = Instant::now();
        let (permit, wait) = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(_) if self.is_shared() && asked + self.times.needed(Duration::ZERO) > patience.deadline => {
                return Err(Full::TooLong(Duration::ZERO));
            }
            Ok(permit) => (permit, Duration::ZERO),
            Err(TryAcquireError::Closed) => return Err(Full::Closed),
            Err(TryAcquireError::NoPermits) => self.stand_in_line(patience, metrics).await?,
        };
        let times = Arc::clone(&self.times);
        let place = Some(Taken { asked, since: Instant::now(), wait, times, _permit: permit });
        Ok(Slot { in_flight: self.least(avoid).begin(), place })
    }

    async fn stand_in_line(
        &self,
        patience: Patience,
        metrics: &ServiceMetrics,
    ) -> Result<(OwnedSemaphorePermit, Duration), Full> {
        let ahead = self.waiting.fetch_add(1, Relaxed);
        let _in_line = InLine(&self.waiting);
        // All places are taken anew once in `mean`, at worst all of them together.
        let mean = self.times.mean();
        let rounds = ahead as usize / self.permits.max(1) + 1;
        let wait = mean.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX));
        let now = Instant::now();
        if now + wait > patience.until || now + self.times.needed(wait) > patience.deadline {
            return Err(Full::TooLong(wait));
        }
        let _waiting = metrics.waiting();
        // Whose turn comes later than that has no time left to be answered.
        let until = patience.until.min(patience.deadline.checked_sub(mean).unwrap_or(patience.deadline));
        match timeout_at(until.into(), Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => Ok((permit, wait)),
            Ok(Err(_)) => Err(Full::Closed),
            Err(_) => {
                // It would have needed its answer yet.
                self.times.learn_surplus(wait + mean, now.elapsed() + mean);
                Err(Full::Waited(now.elapsed()))
            }
        }
    }

    /// Whether more than one request has a place.
    fn is_shared(&self) -> bool {
        self.free.available_permits() + 1 < self.permits
    }

    /// A replica for a request that needs no key: it waits in no line and keeps nobody waiting.
    pub(crate) fn beside(&self, avoid: &[Arc<Replica>]) -> Slot {
        Slot { in_flight: self.least(avoid).begin(), place: None }
    }

    /// Tells who waits that there are newer routes.
    pub(crate) fn retire(&self) {
        self.free.close();
    }

    /// Whether a request has a place here: from the moment it got its permit, before it is sent.
    pub(crate) fn is_busy(&self) -> bool {
        self.free.available_permits() < self.permits
    }

    /// The replica with the least under way.
    fn least(&self, avoid: &[Arc<Replica>]) -> &Arc<Replica> {
        let good = |replica: &&Arc<Replica>| avoid.iter().all(|avoid| !Arc::ptr_eq(replica, avoid));
        // Relative to what each takes at once.
        let load = |replica: &&Arc<Replica>| {
            u64::from(replica.in_flight()) * 1000 / u64::from(replica.document.concurrency.max(1))
        };
        let least = self.replicas.iter().filter(good).min_by_key(load);
        least.unwrap_or(&self.replicas[0])
    }
}

impl Slot {
    /// Gives the place up after an answer: how long it was taken tells how long others will have to wait.
    pub(crate) fn answered(self) {
        if let Some(Taken { asked, since, wait, times, .. }) = &self.place {
            times.learn_surplus(*wait + times.mean(), asked.elapsed());
            times.learn(since.elapsed());
        }
    }
}
