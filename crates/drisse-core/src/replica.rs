//! One running scoring server, as seen from outside.

use crate::ServiceName;
use std::fmt;
use std::time::SystemTime;

/// Names a replica: unique in its workspace, safe in a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReplicaId(String);

/// A replica as its place sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Replica {
    /// Which.
    pub id: ReplicaId,
    /// Whose.
    pub service: ServiceName,
    /// Of which revision.
    pub revision: u64,
    /// Made by an older Drisse, or with options of the place that have changed: to be replaced.
    pub outdated: bool,
    /// How it is.
    pub state: ReplicaState,
}

/// How a replica is.
#[derive(Clone, PartialEq, Debug)]
pub enum ReplicaState {
    /// It runs and does not take requests yet.
    Starting {
        /// When it was started.
        since: SystemTime,
    },
    /// It takes requests.
    Ready {
        /// Since when.
        since: SystemTime,
        /// `unix:PATH` or `http(s)://HOST:PORT`.
        address: String,
        /// Where it tells of itself (`/metrics`), as above; none where nobody but it can ask.
        admin: Option<String>,
        /// Requests at once that still make it faster.
        concurrency: u32,
        /// Whether it has confirmed the keys its revision was last prepared with.
        keys_confirmed: bool,
    },
    /// It was told to end and answers what it has.
    Stopping,
    /// It ended without being told.
    Dead(Death),
}

/// How a replica ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Death {
    /// When.
    pub at: SystemTime,
    /// Why, as far as its place can tell: `exited with code 1`.
    pub reason: String,
    /// Whether it failed, and did not end as if it had been told to.
    pub failed: bool,
    /// Whether it ended before it was ever ready.
    pub before_ready: bool,
    /// Whether starting it again would end the same way: it said that the model or its options are wrong.
    pub permanent: bool,
    /// The last lines it wrote.
    pub log: Vec<String>,
}

impl ReplicaId {
    /// An id from its text: 1 to 32 lowercase letters and digits.
    pub fn new(text: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let ok = (1..=32).contains(&text.len()) && text.bytes().all(plain);
        ok.then(|| Self(text.to_owned()))
    }

    /// The text.
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
    /// Whether it takes requests.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, ReplicaState::Ready { .. })
    }

    /// Whether it takes requests or is about to.
    pub fn is_up(&self) -> bool {
        matches!(self.state, ReplicaState::Ready { .. } | ReplicaState::Starting { .. })
    }

    /// How it ended, if it has.
    pub fn death(&self) -> Option<&Death> {
        if let ReplicaState::Dead(death) = &self.state { Some(death) } else { None }
    }
}
