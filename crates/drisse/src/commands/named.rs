//! A model named on the command line: a path, or the name of a registered model.

use super::models;
use crate::connect::WorkspaceRef;
use crate::error::Result;
use anyhow::Context;
use drisse_registry::{ModelSource, Store};
use drisse_wire::control::Model;
use std::path::{Path, PathBuf};

/// The endings of model files, also of those that cannot be deployed: an error says what to do with them.
const ENDINGS: [&str; 16] = [
    "onnx",
    "pkl",
    "pickle",
    "joblib",
    "skops",
    "pt",
    "pth",
    "h5",
    "keras",
    "pb",
    "tflite",
    "safetensors",
    "gguf",
    "ubj",
    "cbm",
    "zip",
];

/// Whether `text` is a path and not a name: it has a `/`, ends as model files do, or has another ending and is there.
pub(super) fn is_path(text: &str) -> bool {
    let path = Path::new(text);
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    text.contains('/') || ending.is_some_and(|ending| ENDINGS.contains(&&*ending) || path.exists())
}

/// A model named on the command line.
#[derive(Debug)]
pub(super) enum Named {
    /// A file or folder.
    Source(Box<ModelSource>),
    /// A registered model, and the store that contains it.
    Registered(Store, Box<Model>),
}

impl Named {
    /// Finds the model that `text` names.
    pub(super) async fn find(workspace: &WorkspaceRef, text: &str) -> Result<Self> {
        let path = Path::new(text);
        if is_path(text) || path.exists() {
            return Ok(Self::Source(Box::new(
                ModelSource::open_to_run(path).with_context(|| format!("cannot use {text}"))?,
            )));
        }
        let (name, version) = models::parse(text)?;
        let found = workspace.reach().await?.model(name, version).await?;
        Ok(Self::Registered(Store::existing(&workspace.folder()?.store()), Box::new(found)))
    }

    /// Returns the model's files at a path where an engine can open them.
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
