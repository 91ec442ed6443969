//! The document that tells a gateway where a service's requests go.

use serde::{Deserialize, Serialize};

/// One per service. A gateway keeps it on disk and acknowledges it by its generation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteDocument {
    /// The service's name, as it stands in paths.
    pub service: String,
    /// Grows with every change; an older one never replaces a newer one.
    pub generation: u64,
    /// Digests of the keys that open it, `sha256:HEX` each; empty: open to everybody.
    pub keys: Vec<String>,
    /// Origins whose web pages may score from browsers; `*` is every one.
    #[serde(default)]
    pub cors_origins: Vec<String>,
    /// The file its requests are written to, a JSON line each.
    #[serde(default)]
    pub access_log: Option<String>,
    /// The longest a request may wait for a free replica.
    pub max_wait_ms: u64,
    /// The longest a request may take, waiting included.
    pub scoring_timeout_ms: u64,
    /// Where requests go. Empty: nowhere yet.
    pub revisions: Vec<RouteRevision>,
}

/// The replicas of one revision and their share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRevision {
    /// Which.
    pub revision: u64,
    /// Relative to the others; 0 gets nothing.
    pub weight: u32,
    /// Its replicas.
    pub replicas: Vec<RouteReplica>,
}

/// One scoring server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteReplica {
    /// Its id.
    pub id: String,
    /// `unix:PATH` or `http://HOST:PORT`.
    pub address: String,
    /// Requests at once that still make it faster.
    pub concurrency: u32,
}

/// A gateway's answer to a document: what is in force now, kept on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteAcknowledgement {
    /// The generation in force.
    pub generation: u64,
    /// Replicas that are in no route any more and still have requests of this gateway's under way: not to
    /// be stopped yet. The same document again asks anew.
    pub draining: Vec<String>,
}
