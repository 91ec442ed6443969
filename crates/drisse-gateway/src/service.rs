//! One service as the gateway routes it: its keys, its replicas, and the queue for a free one.

use crate::group::{Full, Group, Patience, Slot};
use crate::metrics::ServiceMetrics;
use crate::replica::Replica;
use drisse_core::{Error, ErrorKind, Result, ServiceTime};
use drisse_net::{AccessLog, KeyDigests};
use drisse_wire::routes::RouteDocument;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A service's routes as they were at one generation.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) document: RouteDocument,
    pub(crate) keys: KeyDigests,
    pub(crate) metrics: ServiceMetrics,
    groups: Vec<Arc<Group>>,
    /// Groups of earlier routes with requests still under way.
    retired: Vec<Arc<Group>>,
    weights: u64,
    turn: AtomicU64,
    /// Where its requests are written down.
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// How long requests keep their places, whatever the routes.
    times: Arc<ServiceTime>,
}

/// The log at `path`, which the service may have had before. Requests are answered whether or not it can be written.
fn access_log(path: &str, before: Option<&Service>) -> Option<Arc<AccessLog>> {
    let path = Path::new(path);
    let known = before.and_then(|service| service.access_log.as_ref()).filter(|log| log.path() == path);
    known.cloned().or_else(|| {
        let opened = AccessLog::open(path);
        opened
            .map(Arc::new)
            .inspect_err(|error| tracing::warn!("cannot write {}: {error}", path.display()))
            .ok()
    })
}

/// Why there is no place.
#[derive(Debug)]
pub(crate) enum NoSlot {
    /// The routes changed: ask the new ones.
    Changed,
    Refused(Error),
}

impl Service {
    /// From a document; replicas that `before` knew keep their connections and counts.
    pub(crate) fn new(
        document: RouteDocument,
        before: Option<&Self>,
        metrics: ServiceMetrics,
        cores: usize,
    ) -> std::result::Result<Self, String> {
        let mut keys = KeyDigests::default();
        for key in &document.keys {
            let digest = key.strip_prefix("sha256:").and(keys.add(key));
            digest.ok_or("a key is no `sha256:HEX`")?;
        }
        let known = || before.into_iter().flat_map(|service| &service.groups).flat_map(|g| &g.replicas);
        // The groups of before still give places until this takes theirs.
        let earlier = before.into_iter().flat_map(|service| {
            service.groups.iter().chain(service.retired.iter().filter(|group| group.is_busy()))
        });
        let retired = earlier.cloned().collect();
        let times = before.map_or_else(Arc::default, |before| Arc::clone(&before.times));
        let access_log = document.access_log.as_deref().and_then(|path| access_log(path, before));
        let mut groups = Vec::new();
        for revision in document.revisions.iter().filter(|revision| revision.weight > 0) {
            groups.push(Arc::new(Group::new(revision, &known, cores, &times)?));
        }
        groups.retain(|group: &Arc<Group>| !group.replicas.is_empty());
        let weights = groups.iter().map(|group| group.weight).sum();
        Ok(Self {
            document,
            keys,
            metrics,
            groups,
            retired,
            weights,
            turn: AtomicU64::new(0),
            access_log,
            times,
        })
    }

    /// Tells who waits that there is something newer.
    pub(crate) fn retire(&self) {
        self.groups.iter().for_each(|group| group.retire());
    }

    /// Replicas that are in no route any more and have requests under way.
    pub(crate) fn draining(&self) -> Vec<String> {
        let routed =
            |id: &str| self.groups.iter().flat_map(|group| &group.replicas).any(|r| r.document.id == id);
        let busy = self.retired.iter().filter(|group| group.is_busy()).flat_map(|group| &group.replicas);
        let mut ids: Vec<_> =
            busy.map(|replica| replica.document.id.clone()).filter(|id| !routed(id)).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    pub(crate) fn replica_count(&self) -> usize {
        self.groups.iter().map(|group| group.replicas.len()).sum()
    }

    pub(crate) fn has_replicas(&self) -> bool {
        !self.groups.is_empty()
    }

    pub(crate) fn max_wait(&self) -> Duration {
        Duration::from_millis(self.document.max_wait_ms)
    }

    /// A place at the replica with the least under way, at once or in time. `avoid` have just failed.
    pub(crate) async fn slot(
        &self,
        patience: Patience,
        avoid: &[Arc<Replica>],
    ) -> std::result::Result<Slot, NoSlot> {
        match self.group().slot(patience, avoid, &self.metrics).await {
            Ok(slot) => Ok(slot),
            Err(Full::Closed) => Err(NoSlot::Changed),
            Err(Full::TooLong(wait)) => {
                let why =
                    format!("a replica would be free in about {} ms, which is too late", wait.as_millis());
                Err(NoSlot::Refused(self.overloaded(&why, wait)))
            }
            Err(Full::Waited(waited)) => {
                let why = format!("no replica was free within {} ms", waited.as_millis());
                Err(NoSlot::Refused(self.overloaded(&why, waited)))
            }
        }
    }

    /// A replica for a request that needs no key: it waits in no line and keeps nobody waiting.
    pub(crate) fn beside(&self, avoid: &[Arc<Replica>]) -> Slot {
        self.group().beside(avoid)
    }

    /// The group whose turn it is: each gets its share, spread evenly.
    fn group(&self) -> &Group {
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

    fn overloaded(&self, why: &str, wait: Duration) -> Error {
        let name = &self.document.service;
        let message = format!(
            "service `{name}` is overloaded: {why}; send fewer requests at once, allow more time, or add replicas"
        );
        Error::new(ErrorKind::Overloaded, message).retry_after(wait)
    }

    /// Why no request can be served now.
    pub(crate) fn unavailable(&self) -> Error {
        let name = &self.document.service;
        let message = format!(
            "service `{name}` has no replica that takes requests: `drisse services show {name}` says why"
        );
        Error::new(ErrorKind::Unavailable, message).retry_after(Duration::from_secs(1))
    }

    /// A refusal unless the header carries one of the keys.
    pub(crate) fn authorize(&self, authorization: Option<&[u8]>) -> Result<()> {
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
