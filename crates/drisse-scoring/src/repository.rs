//! Loading and unloading models while the server runs.

use crate::app::App;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::documents::{EXTENSIONS, MODEL_REPOSITORY, SHARED_MEMORY};
use std::sync::Arc;
use std::time::Instant;

/// The models a server may have, as its operator named them.
pub trait Repository: Send + Sync {
    /// Their names and versions.
    fn models(&self) -> Vec<(String, String)>;

    /// Loads one, or loads it again, and adds it to `app`; [`ErrorKind::NotFound`] where there is none of this name.
    /// Blocks for as long as that takes.
    fn load(&self, app: &App, name: &str) -> Result<()>;
}

/// A model that can be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) ready: bool,
    /// Whether it is loaded when it is asked for.
    pub(crate) comes: bool,
}

impl Entry {
    /// Triton's words for its state, and for why it is in that.
    pub(crate) fn state(&self) -> (&'static str, &'static str) {
        match (self.ready, self.comes) {
            (true, _) => ("READY", ""),
            (false, true) => ("UNAVAILABLE", "not in memory: loaded when it is asked for"),
            (false, false) => ("UNAVAILABLE", "unloaded"),
        }
    }
}

/// Loads a model where no connection waits for it.
pub(crate) async fn load(app: &Arc<App>, name: &str) -> Result<()> {
    if let Some(residents) = app.residents.get().filter(|residents| residents.place(name).is_some()) {
        residents.try_again(name);
        // Loaded again, if it was.
        let _ = app.remove(name);
        return app.wanted(name, Instant::now() + app.config.scoring_timeout).await.map(drop);
    }
    let (app, name) = (Arc::clone(app), name.to_owned());
    let loaded = tokio::task::spawn_blocking(move || {
        let repository = app.repository.get().ok_or_else(still_loading)?;
        repository.load(&app, &name)
    });
    loaded.await.map_err(|_| Error::internal("loading a model panicked; the server's log has the place"))?
}

fn still_loading() -> Error {
    Error::new(ErrorKind::Unavailable, "the server is still loading its models")
}

/// A refusal where models are nobody's to change.
pub(crate) fn check_control(app: &App) -> Result<()> {
    if app.config.model_control {
        return Ok(());
    }
    let message =
        "models are loaded and unloaded on the admin listener, or here with `drisse serve --model-control`";
    Err(Error::new(ErrorKind::Forbidden, message))
}

/// A model is what its operator put there: nobody's request brings another, or another configuration.
pub(crate) fn check_parameters<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    match names.find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => {
            let name = &name[..name.floor_char_boundary(80)];
            let message = format!(
                "the parameter `{name}` is not taken: a model is loaded as the server's operator named it"
            );
            Err(Error::invalid(message))
        }
    }
}

impl App {
    /// The extensions of V2 that clients have here.
    pub(crate) fn extensions(&self) -> Vec<&'static str> {
        let repository = self.config.model_control.then_some(MODEL_REPOSITORY);
        let shared_memory = self.shared_memory.is_on().then_some(SHARED_MEMORY);
        EXTENSIONS.into_iter().chain(repository).chain(shared_memory).collect()
    }

    /// Every model that can be loaded, with whether it is served; only those that are, where `ready` ones are asked
    /// for.
    pub(crate) fn entries(&self, ready: bool) -> Vec<Entry> {
        let served = self.models();
        let known = match self.repository.get() {
            Some(repository) => repository.models(),
            None => served.iter().map(|model| (model.name.to_string(), model.version.clone())).collect(),
        };
        let entry = |(name, version): (String, String)| {
            let is = served.iter().any(|model| model.name.as_str() == name);
            let comes = self.residents.get().is_some_and(|residents| residents.comes(&name).is_some());
            Entry { name, version, ready: is, comes }
        };
        known.into_iter().map(entry).filter(|entry| entry.ready || !ready).collect()
    }

    /// Takes a model out of service, whether it is in memory or not, until its operator loads it again.
    pub(crate) fn unload(&self, name: &str) -> Result<()> {
        let withdrawn = self.residents.get().is_some_and(|residents| residents.withdraw(name));
        self.remove(name).or_else(|error| if withdrawn { Ok(()) } else { Err(error) })
    }

    /// Stops serving a model; what is under way is still answered.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let model = self.model(name)?;
        if let Some(residents) = self.residents.get() {
            residents.draining(name);
        }
        self.change(|models| models.retain(|other| !Arc::ptr_eq(other, &model)));
        tracing::info!(model = name, "unloaded");
        Ok(())
    }
}
