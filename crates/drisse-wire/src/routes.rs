//! The route document of a service: the replicas to which a gateway sends its requests.
//!
//! A gateway may be older than the control plane that writes its documents. It keeps the fields that it does not know,
//! and ignores them, unless [`RouteDocument::requires`] names one of them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The fields of documents that this build knows, wherever in a document they are.
const FIELDS: [&str; 18] = [
    "service",
    "aliases",
    "generation",
    "requires",
    "keys",
    "cors_origins",
    "access_log",
    "max_wait_ms",
    "max_wait_auto",
    "scoring_timeout_ms",
    "revisions",
    "revision",
    "weight",
    "replicas",
    "id",
    "address",
    "certificate",
    "concurrency",
];

/// The routes of one service. A gateway keeps the document on disk and acknowledges it by its generation.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct RouteDocument {
    /// The service's name, as in paths.
    pub service: String,
    /// Further names of the service in paths and calls. The name of another service counts before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Increases with every change; a gateway never replaces a document by one of a lower generation.
    pub generation: u64,
    /// Names of fields, of any part of the document, that a gateway must know to use the document correctly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
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
    /// Whether a request may wait longer than that, if requests take long: see `MaxWait::Auto` of `drisse-core`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub max_wait_auto: bool,
    /// The longest time a request may take, including the wait, in milliseconds.
    pub scoring_timeout_ms: u64,
    /// The revisions that share the requests. Empty: no replica is ready yet.
    pub revisions: Vec<RouteRevision>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The replicas of one revision and its share of the requests.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct RouteRevision {
    /// The revision's number.
    pub revision: u64,
    /// The share of requests, relative to the other weights; 0 receives none.
    pub weight: u32,
    /// The revision's replicas.
    pub replicas: Vec<RouteReplica>,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct RouteReplica {
    /// The replica's id.
    pub id: String,
    /// The replica's address: `unix:PATH`, `http://HOST:PORT` or `https://HOST:PORT`.
    pub address: String,
    /// For `https://`: the certificates to trust, in PEM: of CAs, or a self-signed one that is not marked as a CA's.
    /// `None` trusts the CA certificates of the gateway's system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Useful concurrency: more requests than this at once do not increase the throughput.
    pub concurrency: u32,
    /// Fields that this build does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
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

impl RouteDocument {
    /// The first field in [`Self::requires`] that this build does not know, if there is one.
    pub fn unknown_requirement(&self) -> Option<&str> {
        self.requires.iter().map(String::as_str).find(|field| !FIELDS.contains(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A document of a newer control plane, with all that this build knows.
    fn newer() -> Value {
        json!({
            "service": "s", "generation": 7, "requires": ["keys"], "keys": [], "cors_origins": ["*"],
            "access_log": "/log", "aliases": ["a"], "max_wait_ms": 1, "max_wait_auto": true, "scoring_timeout_ms": 2, "shadow": { "share": 0.5 },
            "revisions": [{ "revision": 1, "weight": 1, "region": "west", "replicas": [
                { "id": "r", "address": "https://h:1", "certificate": "PEM", "concurrency": 4, "zone": null }] }],
        })
    }

    #[test]
    fn fields_of_newer_control_planes_are_kept() {
        let document: RouteDocument = serde_json::from_value(newer()).unwrap();
        assert_eq!(document.other["shadow"]["share"], 0.5);
        assert_eq!(serde_json::to_value(&document).unwrap(), newer());
        let without = RouteDocument { requires: vec![], ..document };
        assert_eq!(serde_json::to_value(without).unwrap().get("requires"), None);
    }

    #[test]
    fn a_field_that_this_build_does_not_know_cannot_be_required() {
        let document = |requires: &[&str]| RouteDocument {
            requires: requires.iter().map(ToString::to_string).collect(),
            ..RouteDocument::default()
        };
        assert_eq!(document(&FIELDS).unknown_requirement(), None);
        assert_eq!(document(&["keys", "shadow", "region"]).unknown_requirement(), Some("shadow"));
    }

    #[test]
    fn the_known_fields_are_those_of_the_types() {
        let mut known = Vec::new();
        let mut left = vec![newer()];
        while let Some(value) = left.pop() {
            match value {
                Value::Object(fields) => {
                    for (name, value) in fields {
                        known.push(name);
                        left.push(value);
                    }
                }
                Value::Array(values) => left.extend(values),
                _ => {}
            }
        }
        known.retain(|name| !["shadow", "share", "region", "zone"].contains(&&**name));
        known.sort();
        let mut fields = FIELDS.map(str::to_owned).to_vec();
        fields.sort();
        assert_eq!(known, fields);
    }
}
