//! The requests and responses of the control API, which `drisse` and all other clients use.
//!
//! Times are RFC 3339 in UTC. A failed request is answered with a [`FailureBody`]; its status is 4xx if the caller can
//! fix the cause, and 5xx if Drisse failed.

mod models;
mod resources;
mod targets;
mod trust;

pub use models::{Model, ModelChange, ModelChoice, RegisterRequest, RepairRequest, Upload, UploadedFiles};
pub use resources::{Resources, RestartPolicy, Secrets};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use targets::{Headroom, TargetInfo, TargetSpec};
pub use trust::{Signature, TrustDocument};
use utoipa::ToSchema;

/// The version of the control API, as the first part of every path.
pub const API: &str = "/v1";

/// The body of `POST /v1/services` and `PATCH /v1/services/{name}`. Omitted members keep their values.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeployRequest {
    /// The model to serve. Required in a POST; by default, a PATCH keeps the current model.
    pub model: Option<ModelChoice>,
    /// The service's name; by default the model's. Ignored in a PATCH, whose path names the service.
    pub name: Option<String>,
    /// What the name was made of: the stem of the model's file, or the name of its folder. The control plane sets it.
    pub stem: Option<String>,
    /// The target on which the service runs; by default `local`.
    pub target: Option<String>,
    /// The number of replicas, from 1 to 100.
    pub replicas: Option<u32>,
    /// Whether requests need a key.
    pub auth: Option<bool>,
    /// Replaces the service's tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// Replaces the further names of the service, which clients use in paths and calls.
    pub aliases: Option<Vec<String>>,
    /// Replaces the origins whose web pages may send requests from browsers (CORS); `*` allows all.
    pub cors_origins: Option<Vec<String>>,
    /// Whether the gateway writes an access log for the service.
    pub access_log: Option<bool>,
    /// The path of a sample `/score` body on the control plane's machine or, with an uploaded model, among its files.
    pub sample: Option<String>,
    /// Whether links in the model's folder are followed that lead out of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub follow_links: bool,
    /// A request is refused if its estimated wait is longer than this, in milliseconds. 0, the default: four times the
    /// learned time of a request, and at least 500 ms.
    pub max_wait_ms: Option<u64>,
    /// The longest time a request may take, in milliseconds; at least 1.
    pub scoring_timeout_ms: Option<u64>,
    /// How replicas run the model; omitted members keep their values.
    pub serving: ServingOptions,
    /// Limits and environment of each replica; omitted members keep their values.
    pub resources: Resources,
    /// The time limit of the operation in milliseconds, at least 1; by default 300000.
    pub timeout_ms: Option<u64>,
    /// Deploys even if the model's signature has changed.
    pub replace: bool,
}

/// How a service's replicas run its model. A replica finds the best value itself for a number that is 0 or omitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServingOptions {
    /// Threads per run of the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Concurrent runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// The maximum number of rows of a run that several requests share; 1 turns batching off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<u32>,
    /// Whether `/metrics` also has Triton's metric names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triton_metrics: Option<bool>,
}

impl ServingOptions {
    /// Returns `before` with the members given here replaced. A number of 0 and `triton_metrics: false` unset a member.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        let number = |new: Option<u32>, old| if new == Some(0) { None } else { new.or(old) };
        Self {
            threads: number(self.threads, before.threads),
            workers: number(self.workers, before.workers),
            max_batch: number(self.max_batch, before.max_batch),
            triton_metrics: self.triton_metrics.or(before.triton_metrics).filter(|on| *on),
        }
    }
}

/// The body of `POST /v1/services/{name}/rollback`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackRequest {
    /// The revision to return to; by default the one before the current revision.
    pub revision: Option<u64>,
    /// The time limit of the operation in milliseconds; by default 300000.
    pub timeout_ms: Option<u64>,
}

/// The body of `POST /v1/services/{name}/keys`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Which of the two keys to replace.
    pub key: KeyName,
    /// The new key; by default a random one.
    pub value: Option<String>,
}

/// The two keys of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum KeyName {
    Primary,
    Secondary,
}

/// The response to `GET /v1/services/{name}/keys`. Both keys are `null` if requests need no key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Keys {
    pub primary_key: Option<String>,
    pub secondary_key: Option<String>,
}

/// The state of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
pub enum ServiceState {
    /// The first revision is not ready yet.
    Deploying,
    /// All wanted replicas accept requests.
    Ready,
    /// A new revision is being rolled out; the old one still serves.
    Updating,
    /// Fewer replicas than wanted accept requests.
    Degraded,
    /// The first deployment failed: deploy the service again or delete it.
    Failed,
    /// The service is being removed.
    Deleting,
    /// The workspace is down: `drisse up` starts the service again.
    Stopped,
}

/// A service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The service's name.
    pub name: String,
    /// `name:version` of the wanted revision's model.
    pub model: String,
    /// The digest of that model's files.
    pub digest: String,
    /// The wanted revision.
    pub revision: u64,
    /// The target on which the service runs.
    pub target: String,
    /// The service's state.
    pub state: ServiceState,
    /// Why the service is not `Ready`, if known.
    pub error: Option<Failure>,
    /// The URL for scoring requests; empty while the gateway does not run.
    pub scoring_uri: String,
    /// The URL of the service's OpenAPI document.
    pub swagger_uri: String,
    /// Further names of the service, which clients use in paths and calls.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Whether requests need a key.
    pub auth: bool,
    /// The wanted number of replicas.
    pub replicas: u32,
    /// The number of replicas of the wanted revision that accept requests.
    pub ready: u32,
    /// Labels that can be changed.
    pub tags: BTreeMap<String, String>,
    /// Origins whose web pages may send requests from browsers (CORS).
    pub cors_origins: Vec<String>,
    /// Whether the gateway writes an access log for the service.
    pub access_log: bool,
    /// When the service was first deployed.
    pub created_at: String,
    /// When the wanted revision last changed.
    pub updated_at: String,
    /// The revisions, newest first; only in the response for a single service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Revision>,
    /// The running replicas; only in the response for a single service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

/// A revision of a service: a model and its options. Immutable.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// The revision's number, from 1.
    pub revision: u64,
    /// The model, `name:version`.
    pub model: String,
    /// The digest of the model's files.
    pub digest: String,
    /// Whether requests need a key.
    pub auth: bool,
    /// A request is refused if its estimated wait is longer than this, in milliseconds.
    pub max_wait_ms: u64,
    /// Whether it may be longer if requests take long: four times the learned time of a request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub max_wait_auto: bool,
    /// The longest time a request may take, in milliseconds.
    pub scoring_timeout_ms: u64,
    /// How replicas run the model; only the options that were set.
    #[serde(default)]
    pub serving: ServingOptions,
    /// Limits and environment of each replica; only the options that were set.
    #[serde(default)]
    pub resources: Resources,
    /// When the revision was created.
    pub created_at: String,
    /// The revision's share of the requests, relative to the other wanted revisions; absent if it is not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The number of replicas that were asked for; absent if the revision is not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// The number of replicas that an autoscaler has set since; absent if none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled: Option<u32>,
}

/// A replica, as its target reports it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// The replica's id.
    pub id: String,
    /// The revision that the replica runs.
    pub revision: u64,
    /// `starting`, `ready`, `stopping` or `dead`.
    pub state: String,
    /// Whether the gateway sends requests to the replica.
    pub in_use: bool,
    /// The replica's address, or why it died.
    pub detail: String,
}

/// The state of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OperationState {
    Running,
    Succeeded,
    Failed,
    Canceled,
    TimedOut,
}

/// A long-running change.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// The operation's number.
    pub id: i64,
    /// `register`, `deploy`, `update`, `rollback`, `keys`, `delete`, `delete-model`, `verify`, `repair` or
    /// `collect`.
    pub kind: String,
    /// The service or model that the operation changes.
    pub subject: String,
    /// The operation's state.
    pub state: OperationState,
    /// When the operation was requested.
    pub created_at: String,
    /// When the operation ended; `null` while it runs.
    pub finished_at: Option<String>,
    /// Why the operation did not succeed.
    pub error: Option<Failure>,
    /// The result, if there is more to report than the subject.
    #[schema(value_type = Option<Object>)]
    pub result: serde_json::Value,
}

/// A progress event of an operation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The event's number within the operation, from 1.
    pub number: i64,
    /// When the event happened.
    pub at: String,
    /// What happened, as a sentence.
    pub message: String,
}

/// A server-sent event with a progress event of an operation.
#[derive(Debug, ToSchema)]
pub struct ProgressEvent {
    /// The number of the progress event.
    pub id: String,
    /// The progress event as JSON.
    #[schema(content_media_type = "application/json")]
    pub data: String,
}

/// A page of a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// The value of `after` for the next page; `null` on the last page.
    pub next: Option<String>,
}

/// The response to `GET /v1/status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Drisse's version.
    pub version: String,
    /// The build's id, by which a newer binary recognizes an older daemon.
    pub build: String,
    /// The workspace's folder.
    pub workspace: String,
    /// The control plane's process.
    pub control: ProcessInfo,
    /// The gateway's process and address.
    pub gateway: GatewayInfo,
    /// The address `HOST:PORT` of the `/metrics` endpoint of all processes; `null` if it is turned off.
    #[serde(default)]
    pub metrics: Option<String>,
    /// The address `HOST:PORT` at which the store is served as a registry; `null` if it is turned off.
    #[serde(default)]
    pub registry: Option<String>,
    /// The number of services in each state.
    pub services: BTreeMap<String, u64>,
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProcessInfo {
    /// The process id; `null` if the process does not run.
    pub pid: Option<u32>,
}

/// The gateway's process and address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct GatewayInfo {
    /// The process id; `null` if the process does not run.
    pub pid: Option<u32>,
    /// The gateway's address, `HOST:PORT`.
    pub address: Option<String>,
    /// `http` or `https`.
    pub scheme: String,
    /// What clients connect to, `http://HOST` or `https://HOST`, with the port if it is not the scheme's own.
    #[serde(default)]
    pub url: String,
    /// The path of the certificate, if the gateway uses TLS.
    pub certificate: Option<String>,
    /// The SHA-256 of the certificate, as lower-case hexadecimal digits, if the gateway uses TLS.
    #[serde(default)]
    pub certificate_sha256: Option<String>,
    /// A note for the user, such as a port other than the default.
    pub note: Option<String>,
}

/// The body of `POST /v1/shutdown`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shutdown {
    /// Stops everything and keeps the desired state, which the next start restores.
    All,
    /// Stops only the control plane, so that a newer one can take over the running processes.
    Handover,
}

/// A failure; responses, operations and `--output json` share this shape.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// The causes, the most direct one first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What the user can do about the failure.
    #[serde(default)]
    pub hint: Option<String>,
    /// Whether Drisse is at fault rather than the caller.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
}

/// The body of a response that reports a failure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FailureBody {
    /// The failure.
    pub error: Failure,
}

impl Failure {
    /// Returns a failure without causes.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// Returns the failure of an error, with the error's sources as its causes.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        Self { causes: causes.map(ToString::to_string).collect(), ..Self::new(error.to_string()) }
    }

    /// Replaces the message by `what`, which was attempted; the old message becomes the first cause.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.message, what.into()));
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for ServiceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_number_of_many_digits_is_the_same_once_it_was_written_down() {
        let digits = "[77777777777777707777777777777777777777777770.5]";
        let read: serde_json::Value = serde_json::from_str(digits).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&read.to_string()).unwrap(), read);
    }
}
