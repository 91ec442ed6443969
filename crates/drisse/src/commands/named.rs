//! A model as a command line names it: a path, or a registered model's name.

use super::models;
use crate::connect::Place;
use crate::failure::Failure;
use anyhow::Context;
use drisse_registry::{ModelSource, Store};
use drisse_wire::control::Model;
use std::path::{Path, PathBuf};

/// What was named.
#[derive(Debug)]
pub(super) enum Named {
    /// A file or folder.
    Source(Box<ModelSource>),
    /// A model of the workspace, and the store that it is in.
    Registered(Store, Box<Model>),
}

impl Named {
    /// Finds it; with a `/` or a file extension it is a path.
    pub(super) async fn find(place: &Place, text: &str) -> Result<Self, Failure> {
        let path = Path::new(text);
        if text.contains('/') || path.extension().is_some() || path.exists() {
            return Ok(Self::Source(Box::new(
                ModelSource::open_to_run(path).with_context(|| format!("cannot use {text}"))?,
            )));
        }
        let (name, version) = models::parse(text)?;
        let found = place.connect().await?.model(name, version).await?;
        Ok(Self::Registered(Store::existing(&place.folder()?.store()), Box::new(found)))
    }

    /// The model's files where an engine opens them.
    pub(super) fn source(self) -> anyhow::Result<ModelSource> {
        let (store, model) = match self {
            Self::Source(source) => return Ok(*source),
            Self::Registered(store, model) => (store, model),
        };
        let manifest = store.manifest(&model.manifest_digest)?;
        let view = store.view_of(&model.digest, &manifest)?;
        let path: PathBuf = manifest.model_file().map_or(view.clone(), |file| view.join(file));
        Ok(ModelSource::open_to_run(&path)?)
    }
}
