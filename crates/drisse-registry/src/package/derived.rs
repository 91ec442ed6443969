//! `drisse.json`: what Drisse derives from a model, among it the engine that runs it. It is not a part of the model's
//! identity.

use super::{Ingested, Manifest, WEIGHT_CONFIG};
use crate::{Store, signature_document};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The file's name in a package, and beside a model.
pub(crate) const DERIVED: &str = "drisse.json";

/// The engine of a model whose package names none.
pub(crate) const DEFAULT_ENGINE: &str = "onnx";

/// Returns what is derived from a model.
pub(super) fn document(model: &Ingested) -> Value {
    let found = &model.inspection;
    json!({
        "schema": 1,
        "digest": model.digest,
        "engine": model.engine,
        "framework": found.framework,
        "producer": found.producer,
        "producer_version": found.producer_version,
        "opsets": found.opsets,
        "parameters": found.parameters,
        "data_dependent": found.traits.data_dependent,
        "signature": signature_document(&found.signature),
    })
}

/// Returns the engine that the bytes of a [`DERIVED`] file name, or why they are not valid.
pub(crate) fn engine_in(derived: &[u8]) -> Result<String, String> {
    let derived: Value = serde_json::from_slice(derived).map_err(|error| error.to_string())?;
    match &derived["engine"] {
        Value::Null => Ok(DEFAULT_ENGINE.to_owned()),
        Value::String(engine) => Ok(engine.clone()),
        _ => Err("`engine` is not a string".to_owned()),
    }
}

impl Manifest {
    /// Returns the path and the digest of the derived file.
    pub(crate) fn derived(&self) -> Option<(PathBuf, &str)> {
        self.files([WEIGHT_CONFIG]).find(|(path, _)| path == Path::new(DERIVED))
    }
}

impl Store {
    /// Returns the derived file that belongs beside the model's files: only if it names another engine than the
    /// default.
    pub(crate) fn derived_beside_model(&self, manifest: &Manifest) -> Option<(PathBuf, String)> {
        let (path, digest) = manifest.derived()?;
        let engine = engine_in(&self.read(digest).ok()?).ok()?;
        (engine != DEFAULT_ENGINE).then(|| (path, digest.to_owned()))
    }
}
