//! The routes of one service: its keys, its replicas, and the queue in front of them.

use crate::metrics::ServiceMetrics;
use crate::replica::Replica;
use crate::replica_group::{Patience, Permit, PermitError, ReplicaGroup};
use crate::sync::{Mutex, MutexGuard};
use drisse_core::{Error, ErrorKind, MaxWait, ServiceTime};
use drisse_net::{AccessLog, KeyDigests};
use drisse_wire::routes::RouteDocument;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The routes of a service at one generation.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) document: RouteDocument,
    pub(crate) keys: KeyDigests,
    pub(crate) metrics: ServiceMetrics,
    groups: Vec<Arc<ReplicaGroup>>,
    /// The groups of earlier routes that may still have requests in flight.
    retired: Mutex<Vec<Arc<ReplicaGroup>>>,
    /// The sum of the groups' weights.
    weights: u64,
    /// The number of requests so far, which spreads them over the groups.
    turn: AtomicU64,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// How long requests hold their permits; kept when the routes change.
    times: Arc<ServiceTime>,
}

/// Opens the log at `path`, or returns the one that `before` has open. `None` if it cannot be written; requests are
/// answered anyway.
fn access_log(path: &str, before: Option<&Service>) -> Option<Arc<AccessLog>> {
    let path = Path::new(path);
    let known = before.and_then(|service| service.access_log.as_ref()).filter(|log| log.path() == path);
    known.cloned().or_else(|| {
        let opened = AccessLog::open(path).map(Arc::new);
        opened.inspect_err(|error| tracing::warn!("cannot write {}: {error}", path.display())).ok()
    })
}

impl Service {
    /// Creates the service that a document describes. Replicas that `before` has too keep their connections and counts.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// Returns the reason if a key or the route of a replica cannot be used.
    pub(crate) fn new(
        document: RouteDocument,
        before: Option<&Self>,
        metrics: ServiceMetrics,
        cores: usize,
    ) -> Result<Self, String> {
        let mut keys = KeyDigests::default();
        for key in &document.keys {
            let digest = key.strip_prefix("sha256:").and(keys.add(key));
            digest.ok_or("a key is not `sha256:HEX`")?;
        }
        let known = || before.into_iter().flat_map(|service| &service.groups).flat_map(|g| &g.replicas);
        // The groups of `before` grant permits until this service replaces it.
        let earlier = |service: &Self| [&*service.groups, &*service.busy()].concat();
        let retired = Mutex::new(before.map_or_else(Vec::new, earlier));
        let times = before.map_or_else(Arc::default, |before| Arc::clone(&before.times));
        let mut groups = Vec::new();
        for revision in document.revisions.iter().filter(|revision| revision.weight > 0) {
            groups.push(Arc::new(ReplicaGroup::new(revision, &known, cores, &times)?));
        }
        groups.retain(|group: &Arc<ReplicaGroup>| !group.replicas.is_empty());
        let access_log = document.access_log.as_deref().and_then(|path| access_log(path, before));
        let weights = groups.iter().map(|group| group.weight).sum();
        let turn = AtomicU64::new(0);
        Ok(Self { document, keys, metrics, groups, retired, weights, turn, access_log, times })
    }

    /// Makes queued requests use the newer routes.
    pub(crate) fn retire(&self) {
        self.groups.iter().for_each(|group| group.retire());
    }

    /// Returns the retired groups that still have requests in flight. Closes the connections of the others.
    fn busy(&self) -> MutexGuard<'_, Vec<Arc<ReplicaGroup>>> {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|group| group.is_busy());
        retired
    }

    /// Returns the ids of replicas that are in no route any more but still have requests in flight. This service must
    /// already have replaced the previous one.
    pub(crate) fn draining(&self) -> Vec<String> {
        let routed =
            |id: &str| self.groups.iter().flat_map(|group| &group.replicas).any(|r| r.document.id == id);
        let busy = self.busy();
        let replicas = busy.iter().flat_map(|group| &group.replicas);
        let ids = replicas.map(|replica| replica.document.id.clone()).filter(|id| !routed(id));
        ids.collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(crate) fn replica_count(&self) -> usize {
        self.groups.iter().map(|group| group.replicas.len()).sum()
    }

    pub(crate) fn has_replicas(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Returns the time limits of a request that arrived at `started` and must be answered by `deadline`.
    pub(crate) fn patience(&self, started: Instant, deadline: Instant) -> Patience {
        let max_wait = match self.document.max_wait_auto {
            true => MaxWait::Auto,
            false => MaxWait::Fixed(Duration::from_millis(self.document.max_wait_ms)),
        };
        Patience { started, max_wait, deadline }
    }

    /// Returns the end of a wait for replicas that accept requests.
    pub(crate) fn waits_until(&self, patience: Patience) -> Instant {
        let Patience { started, max_wait, deadline } = patience;
        deadline.min(started + max_wait.of(self.times.mean()))
    }

    /// Returns the time limit of a request: that of the client or that of the service, whichever is shorter.
    pub(crate) fn timeout(&self, wanted: Option<Duration>) -> Duration {
        let longest = Duration::from_millis(self.document.scoring_timeout_ms);
        wanted.map_or(longest, |wanted| wanted.min(longest))
    }

    /// Returns a permit of the next group, as [`ReplicaGroup::permit`] does. The service must have replicas.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`ReplicaGroup::permit`].
    pub(crate) async fn permit(
        &self,
        patience: Patience,
        avoid: &[Arc<Replica>],
    ) -> Result<Permit, PermitError> {
        self.group().permit(patience, avoid, &self.metrics).await
    }

    /// Returns a permit that does not count against the concurrency of the replicas. The service must have replicas.
    pub(crate) fn bypass_queue(&self, avoid: &[Arc<Replica>]) -> Permit {
        self.group().bypass_queue(avoid)
    }

    /// Returns the group of the next request. Each group gets its share of the requests, spread evenly.
    fn group(&self) -> &ReplicaGroup {
        if let [only] = &*self.groups {
            return only;
        }
        // Multiples of the golden ratio fall evenly into the interval (a Weyl sequence).
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let turn = self.turn.fetch_add(1, Relaxed).wrapping_mul(GOLDEN);
        let mut point = ((u128::from(turn) * u128::from(self.weights)) >> 64) as u64;
        for group in &self.groups {
            match point.checked_sub(group.weight) {
                Some(beyond) => point = beyond,
                None => return group,
            }
        }
        &self.groups[0]
    }

    /// Returns the error of a request that got no permit.
    pub(crate) fn overloaded(&self, why: &PermitError) -> Error {
        let name = &self.document.service;
        let message = format!(
            "service `{name}` is overloaded: {why}; send fewer requests at once, allow more time, or add replicas"
        );
        let wait = match why {
            PermitError::TooLong(wait) | PermitError::TimedOut(wait) => *wait,
            PermitError::RoutesChanged => Duration::ZERO,
        };
        Error::new(ErrorKind::Overloaded, message).retry_after(wait)
    }

    /// Returns the error of a request while no replica accepts requests.
    pub(crate) fn unavailable(&self) -> Error {
        let name = &self.document.service;
        let message = format!(
            "service `{name}` has no replica that accepts requests: `drisse services show {name}` says why"
        );
        Error::new(ErrorKind::Unavailable, message).retry_after(Duration::from_secs(1))
    }

    /// Checks that the `Authorization` header carries one of the keys.
    ///
    /// # Errors
    /// Returns `Unauthenticated` if it does not.
    pub(crate) fn authorize(&self, authorization: Option<&[u8]>) -> drisse_core::Result<()> {
        if self.keys.is_empty() || self.keys.accept(authorization) {
            return Ok(());
        }
        let name = &self.document.service;
        let message = format!(
            "the key is missing or wrong: send `Authorization: Bearer KEY`, with a key that `drisse keys {name}` shows"
        );
        Err(Error::new(ErrorKind::Unauthenticated, message))
    }
}
