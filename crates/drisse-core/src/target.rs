//! The target seam: a place that can run scoring servers, told what is wanted and asked what is there.

use crate::{Capacity, Limits, Replica, ReplicaId, Restart, ServiceName, Unavailable};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

/// A stream behind a pointer.
pub type BoxStream<T> = Pin<Box<dyn futures_util::Stream<Item = T> + Send>>;

/// Where services run. Keeps no desired state of its own: that is the control plane's.
#[async_trait]
pub trait Target: Debug + Send + Sync {
    /// The kind users name: `local`, `container`, `kubernetes` …
    fn kind(&self) -> &'static str;

    /// What this target has for services; or why it cannot run anything.
    async fn check(&self) -> Result<Capacity, Unavailable>;

    /// Takes the next steps from what is there to what is wanted; does not wait until it is. Calling it
    /// again is harmless. Says when to call it again though nothing changes (a restart that backs off).
    async fn apply(
        &self,
        wanted: &ServiceSpec,
        events: &dyn EventSink,
    ) -> Result<Option<SystemTime>, TargetError>;

    /// All that is ours here, or what is ours of one service; orphans too.
    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError>;

    /// Names services worth looking at again.
    fn changes(&self) -> BoxStream<ServiceName>;

    /// Ends and removes all of a service. Absent is fine.
    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError>;

    /// What a service's replicas write, line by line; with `follow`, for ever and across updates.
    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError>;
}

/// What is wanted of a target for one service.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceSpec {
    /// The service.
    pub service: ServiceName,
    /// The revisions that are to run. Empty: nothing is.
    pub wanted: Vec<Wanted>,
    /// Replicas the gateway still sends requests to: not to be stopped yet.
    pub in_use: BTreeSet<ReplicaId>,
    /// A replica that is not ready by then is given up.
    pub start_timeout: Duration,
}

/// One revision that is to run.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    /// What.
    pub revision: RevisionSpec,
    /// How many.
    pub replicas: u32,
    /// Its share of the requests, relative to the other revisions'.
    pub weight: u32,
}

/// A revision: what a scoring server needs to be told.
#[derive(Clone, PartialEq, Debug)]
pub struct RevisionSpec {
    /// Whose.
    pub service: ServiceName,
    /// From 1, per service.
    pub revision: u64,
    /// The registered model's version, as V2 prints it.
    pub model_version: String,
    /// The digest of the model's files: `sha256:HEX`.
    pub digest: String,
    /// The digest of its package's manifest.
    pub package: String,
    /// The digests of the keys that open it, `sha256:HEX` each; empty: open to everybody.
    pub keys: Vec<String>,
    /// `--max-wait`.
    pub max_wait: Duration,
    /// `--scoring-timeout`.
    pub scoring_timeout: Duration,
    /// How the model is run.
    pub serving: Serving,
    /// What each replica may use.
    pub limits: Limits,
    /// Whether a replica that ended is replaced.
    pub restart: Restart,
    /// Who has to have signed the model.
    pub trust: Trust,
    /// What replicas find in their environment.
    pub environment: Environment,
}

/// Who has to have signed a model for it to run, and the signatures it has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    /// Public keys that count, as PEM; empty: nobody has to.
    pub keys: String,
    /// The texts of the signatures.
    pub bundles: Vec<Vec<u8>>,
}

/// Variables by name. Some are secrets, and none is shown.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Environment(pub BTreeMap<String, String>);

impl Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a scoring server runs its model, where that is said; otherwise it finds out by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Serving {
    /// `--threads`.
    pub threads: Option<u32>,
    /// `--workers`.
    pub workers: Option<u32>,
    /// `--max-batch`.
    pub max_batch: Option<u32>,
    /// `--triton-metrics`.
    pub triton_metrics: bool,
}

impl Serving {
    /// More threads, runs at once, or rows of a run are a mistake in the number.
    pub const MAX: u32 = 1024;
}

/// Why a target could not do what it was asked to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TargetError {
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether trying again cannot help.
    pub permanent: bool,
}

/// Something that happened on the way, for people who wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event(pub String);

/// Where events go.
pub trait EventSink: Send + Sync {
    /// Takes an event.
    fn event(&self, event: Event);
}

/// How much of a log, and whether to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// The last lines that are there.
    pub lines: usize,
    /// Whether to go on with those to come.
    pub follow: bool,
}

impl TargetError {
    /// One that may pass.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, permanent: false }
    }

    /// One that trying again does not mend.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { permanent: true, ..Self::new(message) }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Events nobody waits for.
impl EventSink for () {
    fn event(&self, _: Event) {}
}
