//! The route document of a service: the replicas to which a gateway sends its requests.

use serde::{Deserialize, Serialize};

/// The routes of one service. A gateway keeps the document on disk and acknowledges it by its generation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteDocument {
    /// The service's name, as in paths.
    pub service: String,
    /// Increases with every change; a gateway never replaces a document by one of a lower generation.
    pub generation: u64,
    /// Digests of the keys that are accepted, each `sha256:HEX`. Empty: requests need no key.
    pub keys: Vec<String>,
    /// Origins whose web pages may send requests from browsers (CORS); `*` allows all.
    #[serde(default)]
    pub cors_origins: Vec<String>,
    /// The access log's file, one JSON line per request; `None` writes no access log.
    #[serde(default)]
    pub access_log: Option<String>,
    /// The longest time a request may wait for a free replica, in milliseconds.
    pub max_wait_ms: u64,
    /// The longest time a request may take, including the wait, in milliseconds.
    pub scoring_timeout_ms: u64,
    /// The revisions that share the requests. Empty: no replica is ready yet.
    pub revisions: Vec<RouteRevision>,
}

/// The replicas of one revision and its share of the requests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRevision {
    /// The revision's number.
    pub revision: u64,
    /// The share of requests, relative to the other weights; 0 receives none.
    pub weight: u32,
    /// The revision's replicas.
    pub replicas: Vec<RouteReplica>,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteReplica {
    /// The replica's id.
    pub id: String,
    /// The replica's address: `unix:PATH` or `http://HOST:PORT`.
    pub address: String,
    /// Useful concurrency: more requests than this at once do not increase the throughput.
    pub concurrency: u32,
}

/// A gateway's response to a route document: the document in force, which is on disk by then.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteAcknowledgement {
    /// The generation in force.
    pub generation: u64,
    /// Replicas that are in no route any more but still process requests of this gateway: they must not be stopped yet.
    /// Sending the same document again returns the current list.
    pub draining: Vec<String>,
}
