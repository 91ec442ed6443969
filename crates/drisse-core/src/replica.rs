//! A replica: one scoring server, as its place reports it.

use crate::ServiceName;
use std::fmt;
use std::time::SystemTime;

/// The id of a replica: unique in its workspace, and safe as a path component.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReplicaId(String);

/// A replica as its place reports it.
#[derive(Clone, PartialEq, Debug)]
pub struct Replica {
    /// The replica's id.
    pub id: ReplicaId,
    /// The service that the replica belongs to.
    pub service: ServiceName,
    /// The number of the revision that the replica runs.
    pub revision: u64,
    /// Whether the replica must be replaced: an older Drisse started it, or the options of its place have changed.
    pub outdated: bool,
    /// The replica's state.
    pub state: ReplicaState,
}

/// The state of a replica.
#[derive(Clone, PartialEq, Debug)]
pub enum ReplicaState {
    /// The replica runs and does not accept requests yet.
    Starting {
        /// When the replica was started.
        since: SystemTime,
    },
    /// The replica accepts requests.
    Ready {
        /// When the replica became ready.
        since: SystemTime,
        /// The scoring endpoint: `unix:PATH` or `http(s)://HOST:PORT`.
        address: String,
        /// The admin endpoint (`/metrics`), in the same form; `None` if only the replica itself can reach it.
        admin: Option<String>,
        /// How many requests at once still increase the throughput.
        concurrency: u32,
        /// Whether the replica has confirmed the keys of the last [`prepare`](crate::Place::prepare).
        keys_confirmed: bool,
    },
    /// The replica was asked to end, and still answers the requests that it has.
    Stopping,
    /// The replica ended without being asked to.
    Dead(Death),
}

/// How a replica ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Death {
    /// When the replica ended.
    pub at: SystemTime,
    /// Why the replica ended, as far as its place knows: `exited with code 1`.
    pub reason: String,
    /// Whether the replica failed; false if it ended cleanly.
    pub failed: bool,
    /// Whether the replica ended before it was ever ready.
    pub before_ready: bool,
    /// Whether a restart would end in the same way: the replica reported that the model or its options are wrong.
    pub permanent: bool,
    /// The last lines of the replica's log.
    pub log: Vec<String>,
}

impl ReplicaId {
    /// Parses an id; `None` if `text` is not 1 to 32 lowercase letters and digits.
    pub fn new(text: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ok = (1..=32).contains(&text.len()) && text.bytes().all(plain);
        ok.then(|| Self(text.to_owned()))
    }

    /// Returns the id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Replica {
    /// Returns whether the replica accepts requests.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, ReplicaState::Ready { .. })
    }

    /// Returns whether the replica is starting or accepts requests.
    pub fn is_up(&self) -> bool {
        matches!(self.state, ReplicaState::Ready { .. } | ReplicaState::Starting { .. })
    }

    /// Returns how the replica ended; `None` if it is not dead.
    pub fn death(&self) -> Option<&Death> {
        if let ReplicaState::Dead(death) = &self.state { Some(death) } else { None }
    }
}
