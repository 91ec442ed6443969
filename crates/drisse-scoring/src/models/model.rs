//! One served model: what clients see of it, and what runs it.

use crate::metrics::now;
use crate::schedule::Runner;
use drisse_core::{Inputs, ModelName, Scorer, ScorerLimits, Signature};
use drisse_wire::documents;
use drisse_wire::v2::AnswerParts;
use std::sync::Arc;

/// A model that an engine has loaded, for [`App::add`](crate::App::add).
pub struct ModelSpec {
    /// The name in paths and responses.
    pub name: ModelName,
    /// Further names in paths; responses have the name that was asked for.
    pub aliases: Vec<ModelName>,
    /// The version, as V2 prints it.
    pub version: String,
    /// The digest of the model's files.
    pub digest: String,
    /// The model's inputs and outputs.
    pub signature: Signature,
    /// V2's `platform`: the engine and the format.
    pub platform: &'static str,
    /// A `/score` body for this model, shown to users.
    pub sample: Option<String>,
    /// Concurrent runs; `None`: [`ScorerLimits::concurrency`].
    pub workers: Option<usize>,
    /// The most rows of a run that several requests share; `None`: the server's
    /// [`max_batch`](crate::Config::max_batch), which is also the bound of any number here.
    pub max_batch: Option<usize>,
    /// The loaded model.
    pub scorer: Box<dyn Scorer>,
}

impl ModelSpec {
    /// Returns version 1 of a model of no real engine, for tests and benchmarks.
    pub fn fake(name: ModelName, signature: Signature, scorer: Box<dyn Scorer>) -> Self {
        let (version, digest) = ("1".to_owned(), "sha256:0".to_owned());
        let (platform, sample, workers, max_batch) = ("fake", None, None, None);
        let aliases = Vec::new();
        Self { name, aliases, version, digest, signature, platform, sample, workers, max_batch, scorer }
    }

    /// Returns the scorer's limits, with the operator's number of concurrent runs.
    pub(super) fn limits(&self) -> ScorerLimits {
        let limits = self.scorer.limits();
        ScorerLimits { concurrency: self.workers.unwrap_or(limits.concurrency), ..limits }
    }
}

/// A model that a [`Repository`](crate::Repository) has loaded.
pub struct LoadedModel {
    /// The model.
    pub spec: ModelSpec,
    /// The inputs of its first runs, before it is served; `None`: there are no such runs.
    pub warm_up: Option<Inputs>,
}

/// A served model, under one of its names.
pub(crate) struct Model {
    /// The name that clients use.
    name: ModelName,
    pub(crate) runner: Arc<Runner>,
    pub(crate) version: String,
    pub(crate) digest: String,
    pub(crate) platform: &'static str,
    pub(crate) parts: Arc<AnswerParts>,
    pub(crate) sample: Option<String>,
    /// In milliseconds since 1970.
    loaded_at: u64,
}

impl Model {
    pub(super) fn new(
        runner: Runner,
        version: String,
        digest: String,
        platform: &'static str,
        sample: Option<String>,
    ) -> Self {
        let name = runner.name.clone();
        let parts = Arc::new(AnswerParts::new(name.as_str(), &version, &runner.signature));
        let (runner, loaded_at) = (Arc::new(runner), now());
        Self { name, runner, version, digest, platform, parts, sample, loaded_at }
    }

    /// Returns this model under another name.
    pub(super) fn renamed(&self, name: ModelName) -> Self {
        let parts = Arc::new(AnswerParts::new(name.as_str(), &self.version, &self.runner.signature));
        let (runner, version, digest) = (Arc::clone(&self.runner), self.version.clone(), self.digest.clone());
        let (platform, sample, loaded_at) = (self.platform, self.sample.clone(), self.loaded_at);
        Self { name, runner, version, digest, platform, parts, sample, loaded_at }
    }

    /// Returns the model's name, as clients use it.
    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Returns what documents show of the model.
    pub(crate) fn described(&self) -> documents::Model<'_> {
        let (name, version, signature) = (self.name(), &*self.version, &*self.runner.signature);
        documents::Model { name, version, platform: self.platform, signature }
    }

    /// Returns when the model was used last, or loaded, in milliseconds since 1970.
    pub(super) fn last_used(&self) -> u64 {
        self.runner.metrics.last_used().max(self.loaded_at)
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({}:{})", self.name(), self.version)
    }
}
