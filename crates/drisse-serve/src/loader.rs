//! Loads models: all of them at the start, and single ones when an operator or a request asks for them.

use crate::config::{Config, ModelPath};
use crate::engines::{EngineError, EngineTable};
use crate::error::ServeError;
use crate::inspect::{InspectedModel, aliases, inspect};
use crate::sample::{SampleOrigin, sample};
use drisse_core::{Engine, Error, ErrorKind, ModelName, Signature, lock};
use drisse_registry::{Inspection, ModelSource};
use drisse_scoring::{App, LoadedModel, ModelSpec, Repository, Resident, Tuner};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// A model that a server serves.
#[derive(Clone, Debug)]
pub struct ServedModel {
    /// The model's name.
    pub name: ModelName,
    /// The model's version.
    pub version: String,
    /// The digest of its files; `None` if the model is loaded on demand.
    pub digest: Option<String>,
    /// Its inputs and outputs.
    pub signature: Signature,
    /// Where its sample comes from.
    pub sample: SampleOrigin,
    /// What has no effect of the configuration beside it.
    pub notes: Vec<String>,
}

/// Loads the models of one server.
pub(crate) struct Loader {
    config: Config,
    engines: EngineTable,
    /// The engines that are started.
    started: Mutex<BTreeMap<String, Arc<dyn Engine>>>,
    known: Mutex<Vec<KnownVersion>>,
    /// Raised while the first models are loaded, once an engine runs.
    in_engine: Arc<AtomicBool>,
}

/// A version of a model that can be loaded.
struct KnownVersion {
    name: String,
    version: String,
    path: ModelPath,
}

impl KnownVersion {
    fn of(model: &InspectedModel) -> Self {
        let (name, version) = (model.name.to_string(), model.version.clone());
        Self { name, version, path: model.path.clone() }
    }
}

/// Loads and serves all models, then makes the server ready; with a memory bound they are loaded on demand. `None` if
/// the server is stopped meanwhile.
pub(crate) fn load_all(
    app: &App,
    models: Vec<InspectedModel>,
    loader: Loader,
) -> Result<Option<Vec<ServedModel>>, ServeError> {
    if app.is_draining() {
        return Ok(None);
    }
    for model in &models {
        loader.engine(&model.source.engine)?;
    }
    let mut served = Vec::new();
    if let Some(bound) = loader.config.model_memory {
        let mut residents = Vec::new();
        for InspectedModel { name, version, source, .. } in models {
            let found = &source.inspection;
            let bytes = found.size + found.external_data.iter().map(|file| file.size).sum::<u64>();
            residents.push(Resident { name: name.to_string(), bytes });
            let sample = sample(&source, loader.config.sample.as_deref())?.origin;
            let ModelSource { inspection: Inspection { signature, .. }, configured, .. } = source;
            served.push(ServedModel {
                name,
                version,
                digest: None,
                signature,
                sample,
                notes: configured.notes,
            });
        }
        app.load_on_demand(residents, bound);
    } else {
        for model in models {
            if app.is_draining() {
                return Ok(None);
            }
            let (model, shown) = loader.load_model(model)?;
            app.add(model);
            served.push(shown);
        }
    }
    app.set_repository(Box::new(loader));
    app.set_ready();
    Ok(Some(served))
}

impl Loader {
    pub(crate) fn new(
        config: Config,
        engines: EngineTable,
        models: &[InspectedModel],
        in_engine: Arc<AtomicBool>,
    ) -> Self {
        let known = Mutex::new(models.iter().map(KnownVersion::of).collect());
        Self { config, engines, started: Mutex::default(), known, in_engine }
    }

    /// Returns the engine of this name, and starts it first if that is necessary.
    fn engine(&self, name: &str) -> Result<Arc<dyn Engine>, EngineError> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = started.get(name) {
            return Ok(Arc::clone(engine));
        }
        let start = self.engines.prepare(name)?;
        self.in_engine.store(true, SeqCst);
        let engine: Arc<dyn Engine> = start()?.into();
        started.insert(name.to_owned(), Arc::clone(&engine));
        Ok(engine)
    }

    /// Loads a model with the best tuning for its sample.
    fn load_model(&self, model: InspectedModel) -> Result<(LoadedModel, ServedModel), ServeError> {
        let InspectedModel { name, version, source, .. } = model;
        let engine = self.engine(&source.engine)?;
        let package = source.inspection.package();
        let failed = |source| ServeError::Load { name: name.to_string(), path: package.path.clone(), source };
        let found = sample(&source, self.config.sample.as_deref())?;
        let likeness = source.likeness();
        let tuner = &self.config.tuner;
        // What the operator says of all models goes before what is said beside this one.
        let tuner = &Tuner { workers: tuner.workers.or(source.configured.workers), ..tuner.clone() };
        let load = || tuner.load(&*engine, &package, &likeness, found.inputs.as_ref());
        // The digest is computed while the model is loaded, but not while choices are tried, which it would disturb.
        let (loaded, digest) = std::thread::scope(|scope| {
            let hashing = scope.spawn(|| source.digest());
            match tuner.knows(&likeness) {
                true => (load(), hashing.join()),
                false => {
                    let digest = hashing.join();
                    (load(), digest)
                }
            }
        });
        let (scorer, tuning) = loaded.map_err(|error| failed(error.into()))?;
        let digest = digest.map_err(|_| failed("computing the digest panicked".into()))?;
        let digest = digest.map_err(|error| failed(error.into()))?;
        if let Some(expected) = self.config.digest.clone().filter(|expected| *expected != digest) {
            return Err(ServeError::Damaged { name: name.to_string(), digest, expected });
        }
        let ModelSource { inspection: Inspection { signature, .. }, configured, .. } = source;
        let spec = ModelSpec {
            name: name.clone(),
            aliases: aliases(&self.config)?,
            version: version.clone(),
            digest: digest.clone(),
            signature: signature.clone(),
            platform: engine.platform(),
            sample: found.text,
            workers: Some(tuning.workers),
            max_batch: configured.max_batch,
            scorer,
        };
        let (digest, sample, notes) = (Some(digest), found.origin, configured.notes);
        let served = ServedModel { name, version, digest, signature, sample, notes };
        Ok((LoadedModel { spec, warm_up: found.inputs }, served))
    }
}

impl Repository for Loader {
    fn models(&self) -> Vec<(String, String)> {
        let known = lock(&self.known);
        known.iter().map(|model| (model.name.clone(), model.version.clone())).collect()
    }

    fn load(&self, name: &str) -> drisse_core::Result<Vec<LoadedModel>> {
        // Operators can repair the file, clients cannot.
        let failed = |error: ServeError| Error::new(ErrorKind::Unavailable, with_causes(&error));
        let mut versions = Vec::new();
        for path in self.paths(name)? {
            versions.extend(inspect(&path, &self.config, &self.engines).map_err(failed)?);
        }
        let known: Vec<_> = versions.iter().map(KnownVersion::of).collect();
        let load = |model| self.load_model(model).map(|(model, _)| model).map_err(failed);
        let loaded = versions.into_iter().map(load).collect::<Result<_, _>>()?;
        let mut all = lock(&self.known);
        let index = all.iter().position(|model| model.name == name).unwrap_or(all.len());
        all.retain(|model| model.name != name);
        all.splice(index..index, known);
        Ok(loaded)
    }
}

impl Loader {
    /// Returns where the versions of a model are.
    fn paths(&self, name: &str) -> drisse_core::Result<Vec<ModelPath>> {
        let known = lock(&self.known);
        let mut paths: Vec<_> =
            known.iter().filter(|model| model.name == name).map(|model| model.path.clone()).collect();
        paths.dedup();
        if paths.is_empty() {
            let mut names: Vec<_> = known.iter().map(|model| format!("`{}`", model.name)).collect();
            names.dedup();
            let message =
                format!("this server was started without a model `{name}`: it has {}", names.join(", "));
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Ok(paths)
    }
}

/// Returns an error's message and those of its causes.
fn with_causes(error: &ServeError) -> String {
    let first: &dyn std::error::Error = error;
    let causes = std::iter::successors(Some(first), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
