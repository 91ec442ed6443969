//! Loading and unloading models while the server runs.

use super::{LoadedModel, Model, Models, load_panicked, still_loading};
use drisse_core::{Error, Result, lock};
use std::sync::Arc;
use std::time::Instant;

/// The models that a server can load, as its operator named them.
///
/// Any thread may call any method.
pub trait Repository: Send + Sync {
    /// Returns their names and versions.
    fn models(&self) -> Vec<(String, String)>;

    /// Loads the versions of a model, also if they are served already. The caller serves them. Blocks; the server loads
    /// one model at a time.
    ///
    /// # Errors
    /// [`NotFound`](drisse_core::ErrorKind::NotFound) if there is no model of this name,
    /// [`Unavailable`](drisse_core::ErrorKind::Unavailable) if its files cannot be loaded.
    fn load(&self, name: &str) -> Result<Vec<LoadedModel>>;
}

/// A model that can be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RepositoryEntry {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) ready: bool,
    /// Whether the next request for the model loads it.
    pub(crate) on_demand: bool,
}

impl RepositoryEntry {
    /// Returns the model's state and its reason, in Triton's words.
    pub(crate) fn state(&self) -> (&'static str, &'static str) {
        match (self.ready, self.on_demand) {
            (true, _) => ("READY", ""),
            (false, true) => ("UNAVAILABLE", "not in memory: loaded when it is requested"),
            (false, false) => ("UNAVAILABLE", "unloaded"),
        }
    }
}

/// Refuses parameters that would change the `model`: its operator decides what is served, and how.
pub(crate) fn check_parameters<'a>(model: &str, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    match names.find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => {
            let name = &name[..name.floor_char_boundary(80)];
            let message = format!(
                "the parameter `{name}` is not accepted: a model is loaded as the server's operator named it"
            );
            Err(failed_to_load(Error::invalid(message), model))
        }
    }
}

/// Says in Triton's words, which its clients look for, that a model was not loaded.
fn failed_to_load(error: Error, model: &str) -> Error {
    error.context(format_args!("failed to load '{}'", &model[..model.floor_char_boundary(80)]))
}

impl Models {
    /// Loads a model and serves it, on a thread that may block.
    pub(crate) async fn load(self: &Arc<Self>, name: &str) -> Result<()> {
        if let Some(residents) = self.residents.get().filter(|residents| residents.index(name).is_some()) {
            residents.allow(name);
            // A model in memory is loaded again.
            let _ = self.remove(name);
            return self.find(name, None, Instant::now() + self.patience).await.map(drop);
        }
        let (models, name) = (Arc::clone(self), name.to_owned());
        let loaded = tokio::task::spawn_blocking(move || {
            let repository = models.repository.get().ok_or_else(still_loading)?;
            let _one = lock(&models.loading);
            let loaded = repository.load(&name).map_err(|error| failed_to_load(error, &name))?;
            models.replace(&name, loaded);
            Ok(())
        });
        loaded.await.map_err(|_| load_panicked())?
    }

    /// Lists the models that can be loaded; if `ready` is true, only those in memory.
    pub(crate) fn entries(&self, ready: bool) -> Vec<RepositoryEntry> {
        let served = self.loaded();
        let known = match self.repository.get() {
            Some(repository) => repository.models(),
            None => served.iter().map(|model| (model.name().to_owned(), model.version.clone())).collect(),
        };
        let entry = |(name, version): (String, String)| {
            let ready = served.versions(&name).iter().any(|model| model.version == version);
            let on_demand =
                self.residents.get().is_some_and(|residents| residents.on_demand(&name).is_some());
            RepositoryEntry { name, version, ready, on_demand }
        };
        known.into_iter().map(entry).filter(|entry| entry.ready || !ready).collect()
    }

    /// Takes a model out of service, in memory or not, until its operator loads it again.
    pub(crate) fn unload(&self, name: &str) -> Result<()> {
        let withdrawn = self.residents.get().is_some_and(|residents| residents.withdraw(name));
        self.remove(name).or_else(|error| if withdrawn { Ok(()) } else { Err(error) })
    }

    /// Serves these versions of a model instead of those that are served. Returns the highest; `None` if there are none.
    pub(super) fn replace(&self, name: &str, versions: Vec<LoadedModel>) -> Option<Arc<Model>> {
        let added: Vec<_> = versions.into_iter().map(|loaded| self.add(loaded)).collect();
        let is_kept =
            |model: &Arc<Model>| model.name() != name || added.iter().any(|new| Arc::ptr_eq(new, model));
        self.change(&[], |models| models.retain(is_kept));
        self.get(name, None).ok()
    }

    /// Stops serving all versions of a model; the requests that they have are still answered.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        self.get(name, None)?;
        let loaded = self.loaded();
        let removed = loaded.versions(name);
        if let Some(residents) = self.residents.get() {
            residents.draining(name);
        }
        let is_removed =
            |model: &Arc<Model>| removed.iter().any(|old| Arc::ptr_eq(&old.runner, &model.runner));
        self.change(&[], |models| models.retain(|model| !is_removed(model)));
        tracing::info!(model = name, "unloaded");
        Ok(())
    }
}
