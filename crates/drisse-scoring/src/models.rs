//! The models of a server: the table of those in memory, and what loads and unloads them.

mod model;
mod repository;
mod residency;
mod residents;

pub(crate) use model::Model;
pub use model::{LoadedModel, ModelSpec};
pub use repository::Repository;
pub(crate) use repository::{RepositoryEntry, check_parameters};
pub use residents::Resident;
pub(crate) use residents::Residents;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::schedule::{Batching, Learned, QueuedRequest, Runner, Workers, warm_up};
use arc_swap::ArcSwap;
use drisse_core::{Error, ErrorKind, MaxWait, Result, RowOutputs};
use std::any::Any;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// All models of a server, and the threads that run them.
pub(crate) struct Models {
    pub(crate) workers: Workers<QueuedRequest>,
    table: ArcSwap<Table>,
    metrics: Arc<Metrics>,
    max_batch: usize,
    max_wait: MaxWait,
    /// The longest wait for a model that is loaded on demand.
    patience: Duration,
    /// Loads models while the server runs.
    pub(crate) repository: OnceLock<Box<dyn Repository>>,
    /// The models that are loaded on demand.
    pub(crate) residents: OnceLock<Arc<Residents>>,
    /// Held while a model is loaded, one at a time: a loaded model's memory use is measured as the growth of the
    /// process, and loading takes more memory than the model.
    loading: Mutex<()>,
    /// Whether all models that the server starts with are loaded.
    pub(crate) ready: AtomicBool,
}

/// The models in memory.
#[derive(Debug, Default)]
pub(crate) struct Table {
    in_order: Vec<Arc<Model>>,
    /// The models under their further names.
    aliases: Vec<Arc<Model>>,
    /// The versions of each model, from the lowest to the highest. Versions that are not numbers are the lowest.
    by_name: HashMap<String, Vec<Arc<Model>>>,
}

impl Table {
    fn new(in_order: Vec<Arc<Model>>, mut aliases: Vec<Arc<Model>>) -> Self {
        let is_served =
            |alias: &Arc<Model>| in_order.iter().any(|model| Arc::ptr_eq(&model.runner, &alias.runner));
        aliases.retain(is_served);
        let mut by_name: HashMap<String, Vec<_>> = HashMap::new();
        for model in aliases.iter().chain(&in_order) {
            by_name.entry(model.name().to_owned()).or_default().push(Arc::clone(model));
        }
        for versions in by_name.values_mut() {
            versions.sort_by_key(|model| model.version.parse::<u64>().ok());
        }
        Self { in_order, aliases, by_name }
    }

    /// Returns the versions of the model of this name, from the lowest to the highest.
    pub(crate) fn versions(&self, name: &str) -> &[Arc<Model>] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the versions of the model of this name, or only the one that is wanted.
    pub(crate) fn matching<'a>(
        &'a self,
        name: &str,
        wanted: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Model>> {
        let versions = self.versions(name).iter();
        versions.filter(move |model| wanted.is_none_or(|wanted| wanted == model.version))
    }

    /// Iterates over the highest version of each model.
    pub(crate) fn highest(&self) -> impl Iterator<Item = &Arc<Model>> {
        let is_highest = |model: &&Arc<Model>| {
            self.versions(model.name()).last().is_some_and(|highest| Arc::ptr_eq(highest, model))
        };
        self.in_order.iter().filter(is_highest)
    }
}

impl Deref for Table {
    type Target = [Arc<Model>];

    fn deref(&self) -> &Self::Target {
        &self.in_order
    }
}

impl Models {
    /// Creates an empty table, and starts the threads that run models.
    pub(crate) fn new(config: &Config, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        Ok(Self {
            workers: Workers::start(config.workers)?,
            table: ArcSwap::default(),
            metrics,
            max_batch: config.max_batch,
            max_wait: config.max_wait,
            patience: config.scoring_timeout,
            repository: OnceLock::new(),
            residents: OnceLock::new(),
            loading: Mutex::default(),
            ready: AtomicBool::new(false),
        })
    }

    /// Warms a loaded model up, then serves it instead of the same version of the model of this name. A sample that fails is only
    /// logged: zeros, for example, are not valid inputs of every model.
    pub(crate) fn add(&self, loaded: LoadedModel) -> Arc<Model> {
        let LoadedModel { spec, warm_up: inputs } = loaded;
        let limits = spec.limits();
        let residents = self.residents.get();
        let memory = residents.and_then(|residents| residents.in_memory(spec.name.as_str()));
        let runner = Runner {
            queue: self.workers.add_queue(limits.concurrency),
            batching: Batching::new(
                spec.max_batch.map_or(self.max_batch, |most| most.min(self.max_batch)),
                self.max_wait.of(Duration::ZERO),
            ),
            metrics: self.metrics.model(spec.name.as_str()),
            name: spec.name,
            row_outputs: Arc::new(RowOutputs::of(&spec.signature)),
            signature: Arc::new(spec.signature),
            scorer: spec.scorer,
            limits,
            learned: Learned::default(),
            _memory: memory.map(|memory| Box::new(memory) as Box<dyn Any + Send + Sync>),
        };
        if let Some(inputs) = &inputs
            && let Err(error) = warm_up(&runner, inputs)
        {
            tracing::warn!(model = %runner.name, "the sample cannot be scored: {error}");
        }
        let model = Model::new(runner, spec.version, spec.digest, spec.platform, spec.sample);
        let model = Arc::new(model);
        let aliases: Vec<_> = spec.aliases.into_iter().map(|name| Arc::new(model.renamed(name))).collect();
        self.change(&aliases, |models| {
            models.retain(|other| other.name() != model.name() || other.version != model.version);
            models.push(Arc::clone(&model));
        });
        model
    }

    /// Changes the models in memory. `aliases` are new models under their further names.
    fn change(&self, aliases: &[Arc<Model>], change: impl Fn(&mut Vec<Arc<Model>>)) {
        self.table.rcu(|table| {
            let mut in_order = table.in_order.clone();
            change(&mut in_order);
            Table::new(in_order, [&*table.aliases, aliases].concat())
        });
    }

    /// Returns the models in memory, in the order in which they were added.
    pub(crate) fn loaded(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// Returns this version of the model of this name, if it is in memory; `None`: the highest version.
    pub(crate) fn get(&self, name: &str, version: Option<&str>) -> Result<Arc<Model>> {
        let models = self.loaded();
        let versions = models.versions(name);
        if let Some(highest) = versions.last() {
            let Some(wanted) = version else { return Ok(Arc::clone(highest)) };
            let found = versions.iter().find(|model| model.version == wanted);
            return found.cloned().ok_or_else(|| no_version(versions, name, wanted));
        }
        let name = &name[..name.floor_char_boundary(64)];
        // Clients of Triton look for its words.
        Err(self
            .unknown(format!("Request for unknown model: '{name}' is not found: there is no model `{name}`")))
    }

    /// Returns the only model's name if it is loaded on demand.
    pub(crate) fn only_on_demand(&self) -> Option<&str> {
        self.residents.get()?.only()
    }

    /// Returns this version of the model if all models in memory are versions of one; `None`: the highest version.
    pub(crate) fn only(&self, version: Option<&str>) -> Result<Arc<Model>> {
        match &***self.loaded() {
            [first, others @ ..]
                if self.residents.get().is_none()
                    && others.iter().all(|other| other.name() == first.name()) =>
            {
                self.get(first.name(), version)
            }
            _ => Err(self.unknown("the path names no model: use /score/NAME".to_owned())),
        }
    }

    fn unknown(&self, what: String) -> Error {
        if !self.is_ready() {
            return still_loading();
        }
        let names = self.served_names();
        let served: Vec<_> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
        let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
        Error::new(ErrorKind::NotFound, format!("{what}; this server has {}{more}", served.join(", ")))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }
}

fn no_version(served: &[Arc<Model>], name: &str, wanted: &str) -> Error {
    let served: Vec<_> = served.iter().map(|model| format!("`{}`", model.version)).collect();
    let (wanted, serves) = (&wanted[..wanted.floor_char_boundary(64)], served.join(", "));
    // Clients of Triton look for its words.
    let message = format!(
        "Request for unknown model: '{name}' version {wanted} is not found: model `{name}` has no version `{wanted}`; \
         served: {serves}"
    );
    Error::new(ErrorKind::NotFound, message)
}

fn still_loading() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is still loading its models")
}

fn load_panicked() -> Error {
    Error::internal("loading a model panicked; the server's log says where")
}
