//! The target seam: the trait of everything that can run scoring servers, and the types that describe what to run.

use crate::{Capacity, Limits, MaxWait, Replica, ReplicaId, Restart, ServiceName, UnavailableError};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

/// A boxed stream that can be sent to another thread.
pub type BoxStream<T> = Pin<Box<dyn futures_util::Stream<Item = T> + Send>>;

/// Runs services. A target keeps no desired state of its own: the control plane does.
///
/// Any task may call any method; the control plane makes one call of [`apply`](Self::apply) or
/// [`remove`](Self::remove) at a time for each service. Cancel safety: a caller may drop any of the futures, and the
/// process may be killed, at any moment. Started work then stays, [`list`](Self::list) reports it, and repeating the
/// call completes it.
///
/// ```
/// use drisse_core::{Replica, ServiceSpec, Target, TargetError};
/// use futures_util::StreamExt;
///
/// async fn wait_until_ready(target: &dyn Target, spec: &ServiceSpec) -> Result<(), TargetError> {
///     let mut changes = target.changes();
///     loop {
///         target.apply(spec, &()).await?;
///         if target.list(Some(&spec.service)).await?.iter().any(Replica::is_ready) {
///             return Ok(());
///         }
///         changes.next().await;
///     }
/// }
/// ```
#[async_trait]
pub trait Target: Debug + Send + Sync {
    /// Returns what the target is and what it does by itself.
    fn capabilities(&self) -> Capabilities;

    /// Returns the kind of target as users write it: `local`, `container`, `kubernetes` …
    fn kind(&self) -> &'static str {
        self.capabilities().kind
    }

    /// Returns what the target offers to all services together.
    ///
    /// # Errors
    /// Returns the reason and a hint if the target cannot run anything.
    async fn check(&self) -> Result<Capacity, UnavailableError>;

    /// Takes the next steps from the current state towards `wanted` and does not wait for replicas to become ready.
    /// Calling it again is harmless. Returns what was observed and when to call it again.
    ///
    /// # Errors
    /// Returns an error if a step failed. The control plane calls again, with growing pauses; if the error is
    /// [permanent](field@TargetError::permanent), the operation that waits fails at once.
    async fn apply(&self, wanted: &ServiceSpec, events: &dyn EventSink) -> Result<Applied, TargetError>;

    /// Returns this workspace's replicas on the target: those of one service, or of all, including services that the
    /// control plane does not know.
    ///
    /// # Errors
    /// Returns an error if the target does not answer. A retry may succeed.
    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError>;

    /// Returns a stream of services whose replicas may have changed since the call. It ends with the target, and may
    /// skip changes for a slow receiver.
    fn changes(&self) -> BoxStream<ServiceName>;

    /// Ends all replicas of a service and removes everything that belongs to it. Succeeds if there is nothing.
    ///
    /// # Errors
    /// Returns an error if something could not be removed. Repeat the call: it removes what is left.
    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError>;

    /// Returns the lines that a service's replicas write. With `follow` the stream does not end and includes replicas
    /// that are started later.
    ///
    /// # Errors
    /// Returns an error if the logs cannot be read.
    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError>;
}

/// What a target is and does by itself. The reconciler and the conformance suite ask for these facts, never for a
/// target's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The kind of target as users write it.
    pub kind: &'static str,
    /// Whether the target replaces replicas by its own rolling update, in which a replica that ends answers all requests
    /// that still reach it. [`ServiceSpec::in_use`] then does not keep a replica.
    pub drains_itself: bool,
    /// Whether something on the target changes the number of replicas (an autoscaler of the cluster). Then all ready
    /// replicas receive requests, and more or fewer than wanted are no failure once the target reports the service as
    /// complete.
    pub scales_itself: bool,
}

impl Capabilities {
    /// A target that does neither by itself.
    pub fn none(kind: &'static str) -> Self {
        Self { kind, drains_itself: false, scales_itself: false }
    }
}

/// What [`Target::apply`] observed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Whether every wanted revision has the replicas that the target means it to have, and all of them are ready.
    pub complete: bool,
    /// When to call [`Target::apply`] again even if nothing changes (a delayed restart); `None`: only after a change.
    pub again: Option<SystemTime>,
}

/// The desired state of one service on a target.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceSpec {
    /// The service.
    pub service: ServiceName,
    /// The revisions to run. Empty: run none.
    pub wanted: Vec<Wanted>,
    /// Replicas to which the gateway still sends requests: they must not be stopped yet.
    pub in_use: BTreeSet<ReplicaId>,
    /// How long a replica may take to become ready. After that it is replaced.
    pub start_timeout: Duration,
}

/// One revision to run.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    /// The revision.
    pub revision: RevisionSpec,
    /// The number of replicas.
    pub replicas: u32,
    /// The revision's share of the requests, relative to the weights of the other revisions.
    pub weight: u32,
}

/// A revision: the model and the options with which its scoring servers are started.
#[derive(Clone, PartialEq, Debug)]
pub struct RevisionSpec {
    /// The service that the revision belongs to.
    pub service: ServiceName,
    /// The revision's number: from 1, per service.
    pub revision: u64,
    /// Further names of the service.
    pub aliases: Vec<String>,
    /// The registered model's version, as the V2 protocol prints it.
    pub model_version: String,
    /// The digest of the model's files: `sha256:HEX`.
    pub digest: String,
    /// The digest of the model package's manifest: `sha256:HEX`.
    pub package: String,
    /// The digests of the accepted keys, `sha256:HEX` each; empty: requests need no key.
    pub keys: Vec<String>,
    /// `--max-wait`.
    pub max_wait: MaxWait,
    /// `--scoring-timeout`.
    pub scoring_timeout: Duration,
    /// How the scoring server runs the model.
    pub serving: Serving,
    /// The CPU and memory limits of each replica.
    pub limits: Limits,
    /// Whether a replica that ended is replaced.
    pub restart: Restart,
    /// The signatures that the model must have.
    pub trust: Trust,
    /// The environment variables of each replica.
    pub environment: Environment,
}

impl RevisionSpec {
    /// Returns a revision of version 1 of a model, with the default options and without keys.
    pub fn new(
        service: ServiceName,
        revision: u64,
        digest: impl Into<String>,
        package: impl Into<String>,
    ) -> Self {
        Self {
            service,
            revision,
            aliases: vec![],
            model_version: "1".to_owned(),
            digest: digest.into(),
            package: package.into(),
            keys: vec![],
            max_wait: MaxWait::Auto,
            scoring_timeout: Duration::from_secs(60),
            serving: Serving::default(),
            limits: Limits::default(),
            restart: Restart::default(),
            trust: Trust::default(),
            environment: Environment::default(),
        }
    }
}

/// The signatures that a model must have to run, and those that it has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trust {
    /// The trusted public keys, as PEM; empty: the model needs no signature.
    pub keys: String,
    /// The contents of the model's signature bundles.
    pub bundles: Vec<Vec<u8>>,
}

/// Environment variables by name. Values can be secrets, so `Debug` prints only the names.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Environment(pub BTreeMap<String, String>);

impl Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// How a scoring server runs its model. `None`: the scoring server finds a good value by itself.
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
    /// The largest number of threads, workers or rows of a batch; a larger one is a typing mistake.
    pub const MAX: u32 = 1024;
}

/// An error of a target or a place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TargetError {
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Whether a retry would fail in the same way, so that the operation that waits fails at once.
    pub permanent: bool,
}

/// A progress message for the user who waits for an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event(pub String);

/// Receives the progress messages of an operation. Several threads may call it at the same time, and it must not
/// block. `()` discards all events.
///
/// ```
/// use drisse_core::{Event, EventSink};
/// use std::sync::mpsc::{Sender, channel};
///
/// struct Channel(Sender<String>);
///
/// impl EventSink for Channel {
///     fn event(&self, event: Event) {
///         let _ = self.0.send(event.0); // The receiver may have gone.
///     }
/// }
/// ```
pub trait EventSink: Send + Sync {
    /// Receives an event.
    fn event(&self, event: Event);
}

/// Which lines of a log to return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// How many of the newest existing lines to return.
    pub lines: usize,
    /// Whether the stream continues with lines that are written later.
    pub follow: bool,
}

impl TargetError {
    /// Creates an error after which a retry may succeed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, permanent: false }
    }

    /// Creates an error that a retry does not fix.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { permanent: true, ..Self::new(message) }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Discards all events.
impl EventSink for () {
    fn event(&self, _: Event) {}
}
