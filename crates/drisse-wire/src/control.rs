//! What the control API says and hears: `drisse` and every other client speak these shapes.
//!
//! Times are RFC 3339 in UTC. A failure is [`Failure`], with a status that says whose it is: 4xx the
//! caller can mend, 5xx we failed.

mod resources;
mod targets;
mod trust;

pub use resources::{Resources, RestartPolicy, Secrets};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
pub use targets::{Room, TargetInfo, TargetSpec};
pub use trust::{Signature, TrustDocument};
use utoipa::ToSchema;

/// The version of these shapes, in every path.
pub const API: &str = "/v1";

/// A model to deploy or register: a file or folder on the control plane's machine, or a registered one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelChoice {
    /// An absolute path. Only over the Unix socket: nobody else may have files read.
    Path(String),
    /// `name` (its newest version) or `name:version`.
    Registered(String),
}

/// `POST /v1/models`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The file or folder.
    pub path: String,
    /// The digest of a package's manifest: `path` is the OCI image layout that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The digests of the manifests of its signatures there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<String>,
    /// The model's name; without, the file's.
    pub name: Option<String>,
    /// A `/score` body, instead of `sample.json` beside the model.
    pub sample: Option<String>,
    /// Replaces the version's tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// Added to the version's properties, which are never changed.
    pub properties: Option<BTreeMap<String, String>>,
}

/// `POST /v1/repair`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepairRequest {
    /// Files and folders where bytes that are missing may be.
    pub from: Vec<String>,
}

/// `PATCH /v1/models/{name}/versions/{version}`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelChange {
    /// Tags to set.
    pub tags: BTreeMap<String, String>,
    /// Tags to remove.
    pub remove_tags: Vec<String>,
    /// Properties to add.
    pub properties: BTreeMap<String, String>,
}

/// A registered version of a model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The name.
    pub name: String,
    /// From 1.
    pub version: u64,
    /// The digest of its files.
    pub digest: String,
    /// The digest registries and signatures name.
    pub manifest_digest: String,
    /// Bytes of its files.
    pub size: u64,
    /// What it was made with, where the file says so.
    pub framework: Option<String>,
    /// When it was registered.
    pub created_at: String,
    /// May change.
    pub tags: BTreeMap<String, String>,
    /// May only grow.
    pub properties: BTreeMap<String, String>,
    /// Inputs and outputs.
    #[schema(value_type = Object)]
    pub signature: serde_json::Value,
    /// Services whose revisions use it.
    pub used_by: Vec<String>,
}

/// `POST /v1/services` and `PATCH /v1/services/{name}`. What is not given keeps its value.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeployRequest {
    /// What to serve; may be left out where the service is there already.
    pub model: Option<ModelChoice>,
    /// The service's name; without, the model's. Not in a PATCH.
    pub name: Option<String>,
    /// Where it runs; `local` without.
    pub target: Option<String>,
    /// How many scoring servers.
    pub replicas: Option<u32>,
    /// Whether a key is needed.
    pub auth: Option<bool>,
    /// Replaces the service's tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// Replaces the origins whose web pages may score from browsers; `*` is every one.
    pub cors_origins: Option<Vec<String>>,
    /// Whether the gateway writes its requests down.
    pub access_log: Option<bool>,
    /// A `/score` body: a path on the control plane's machine.
    pub sample: Option<String>,
    /// A request that would wait longer is refused.
    pub max_wait_ms: Option<u64>,
    /// The longest a request may take.
    pub scoring_timeout_ms: Option<u64>,
    /// How the model is run; what is not given keeps its value.
    pub serving: ServingOptions,
    /// What surrounds each replica; what is not given keeps its value.
    pub resources: Resources,
    /// The longest this operation may take.
    pub timeout_ms: Option<u64>,
    /// Deploy although the model's signature changed.
    pub replace: bool,
}

/// How a service's scoring servers run its model. Of the numbers, 0 or none is what they find out by themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServingOptions {
    /// Threads that work on one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Runs at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Rows of requests that may share a run; 1 has each request run by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<u32>,
    /// Whether `/metrics` say the same under Triton's names too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triton_metrics: Option<bool>,
}

impl ServingOptions {
    /// These, where they say something; otherwise those that were.
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

/// `POST /v1/services/{name}/rollback`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackRequest {
    /// Which revision; without, the one before.
    pub revision: Option<u64>,
    /// The longest this operation may take.
    pub timeout_ms: Option<u64>,
}

/// `POST /v1/services/{name}/keys`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Which of the two.
    pub key: KeyName,
    /// The new key; without, one is made.
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

/// `GET /v1/services/{name}/keys`; both `null` where no key is needed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Keys {
    pub primary_key: Option<String>,
    pub secondary_key: Option<String>,
}

/// How a service is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
pub enum ServiceState {
    /// Its first revision is not ready yet.
    Deploying,
    /// Every wanted replica takes requests.
    Ready,
    /// A new revision is on its way; the old one serves.
    Updating,
    /// Fewer replicas than wanted take requests.
    Degraded,
    /// It never worked; deploy it again or delete it.
    Failed,
    /// It is being removed.
    Deleting,
}

/// A service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The name.
    pub name: String,
    /// `name:version` of the wanted revision's model.
    pub model: String,
    /// The digest of that model's files.
    pub digest: String,
    /// The wanted revision.
    pub revision: u64,
    /// Where it runs.
    pub target: String,
    /// How it is.
    pub state: ServiceState,
    /// Why it is not `Ready`, where that is known.
    pub error: Option<Failure>,
    /// Where requests go; empty while there is no gateway.
    pub scoring_uri: String,
    /// The OpenAPI document of it.
    pub swagger_uri: String,
    /// Whether a key is needed.
    pub auth: bool,
    /// Replicas wanted.
    pub replicas: u32,
    /// Replicas of the wanted revision that take requests.
    pub ready: u32,
    /// May change.
    pub tags: BTreeMap<String, String>,
    /// Origins whose web pages may score from browsers.
    pub cors_origins: Vec<String>,
    /// Whether the gateway writes its requests down.
    pub access_log: bool,
    /// When it was first deployed.
    pub created_at: String,
    /// When its wanted revision last changed.
    pub updated_at: String,
    /// Its revisions, the newest first; only where one service is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Revision>,
    /// What runs; only where one service is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
}

/// A model with options, immutable.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// From 1.
    pub revision: u64,
    /// `name:version`.
    pub model: String,
    /// The digest of the model's files.
    pub digest: String,
    /// Whether a key is needed.
    pub auth: bool,
    /// A request that would wait longer is refused.
    pub max_wait_ms: u64,
    /// The longest a request may take.
    pub scoring_timeout_ms: u64,
    /// How the model is run, where that was said.
    #[serde(default)]
    pub serving: ServingOptions,
    /// What surrounds each replica, where that was said.
    #[serde(default)]
    pub resources: Resources,
    /// When it was made.
    pub created_at: String,
}

/// A replica, as its target sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its id.
    pub id: String,
    /// Of which revision.
    pub revision: u64,
    /// `starting`, `ready`, `stopping` or `dead`.
    pub state: String,
    /// Whether the gateway sends it requests.
    pub in_use: bool,
    /// Where it is, or why it died.
    pub detail: String,
}

/// How far an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OperationState {
    Running,
    Succeeded,
    Failed,
    Canceled,
    TimedOut,
}

/// A change that takes its time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its number.
    pub id: i64,
    /// `register`, `deploy`, `update`, `rollback`, `keys`, `delete`, `delete-model`, `verify` or `collect`.
    pub kind: String,
    /// The service or model it changes.
    pub subject: String,
    /// How far it is.
    pub state: OperationState,
    /// When it was asked for.
    pub created_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
    /// Why it did not succeed.
    pub error: Option<Failure>,
    /// What it made, where that says more than its subject.
    #[schema(value_type = Option<Object>)]
    pub result: serde_json::Value,
}

/// What happened on the way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// From 1, within the operation.
    pub number: i64,
    /// When.
    pub at: String,
    /// What.
    pub message: String,
}

/// A server-sent event that carries a [`Progress`].
#[derive(Debug, ToSchema)]
pub struct ProgressEvent {
    /// The progress's number.
    pub id: String,
    /// The progress, as JSON.
    #[schema(content_media_type = "application/json")]
    pub data: String,
}

/// A page of a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// In order.
    pub items: Vec<T>,
    /// What to give as `after` for the next page; absent on the last.
    pub next: Option<String>,
}

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Drisse's version.
    pub version: String,
    /// Which build of it, so that a newer binary knows an older daemon.
    pub build: String,
    /// The folder.
    pub workspace: String,
    /// The process that answers this.
    pub control: ProcessInfo,
    /// The gateway.
    pub gateway: GatewayInfo,
    /// Where `/metrics` of all are, `HOST:PORT`; none where they are not asked for.
    #[serde(default)]
    pub metrics: Option<String>,
    /// Where the store is read as from a registry, `HOST:PORT`; none where that is not asked for.
    #[serde(default)]
    pub registry: Option<String>,
    /// Services by state.
    pub services: BTreeMap<String, u64>,
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProcessInfo {
    /// Its id; `null` when it does not run.
    pub pid: Option<u32>,
}

/// The gateway.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct GatewayInfo {
    /// Its id; `null` when it does not run.
    pub pid: Option<u32>,
    /// `HOST:PORT`.
    pub address: Option<String>,
    /// `http` or `https`.
    pub scheme: String,
    /// The certificate's file, where it is served over TLS.
    pub certificate: Option<String>,
    /// Something the user should know (another port than the usual one).
    pub note: Option<String>,
}

/// `POST /v1/shutdown`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shutdown {
    /// Everything stops; what is wanted stays wanted.
    All,
    /// Only the control plane ends; a newer one takes over what runs.
    Handover,
}

/// What went wrong: the same shape in answers, in operations and in `--output json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What led to it, the nearest first.
    #[serde(default)]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Whether Drisse failed, and not who asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
}

/// The body of an answer that is a failure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct FailureBody {
    /// It.
    pub error: Failure,
}

impl Failure {
    /// A failure without causes.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// From an error and what led to it.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        Self { causes: causes.map(ToString::to_string).collect(), ..Self::new(error.to_string()) }
    }

    /// Puts what was attempted in front; what was the message becomes the first cause.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.message, what.into()));
        self
    }

    /// Says what to do about it.
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
