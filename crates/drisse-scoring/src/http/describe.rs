//! Documents about the server and its models.

use super::reply::Reply;
use crate::app::App;
use crate::models::Model;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::{documents, openapi};
use serde_json::Value;
use std::sync::Arc;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn server(app: &App) -> Reply {
    Reply::json(documents::server_metadata(VERSION, &app.extensions()).to_string())
}

pub(super) fn ready(name: &str) -> Reply {
    Reply::json(documents::model_ready(name).to_string())
}

/// Returns what `document` says of a model.
pub(super) fn model(model: &Model, document: fn(documents::Model<'_>) -> Value) -> Reply {
    Reply::json(document(model.described()).to_string())
}

/// Returns V2's metadata of a model, with all its versions.
pub(super) fn metadata(app: &App, model: &Model) -> Reply {
    let loaded = app.models.loaded();
    let versions = loaded.versions(model.name()).iter().map(|version| &*version.version);
    Reply::json(documents::model_metadata(model.described(), versions).to_string())
}

/// Returns the status of all versions of a model, or of the one that is wanted.
pub(super) fn v1_status(app: &App, name: &str, wanted: Option<&str>) -> Reply {
    let loaded = app.models.loaded();
    let versions = loaded.matching(name, wanted).map(|version| &*version.version);
    Reply::json(documents::v1_status(name, versions).to_string())
}

pub(super) fn statistics<'a>(models: impl Iterator<Item = &'a Arc<Model>>) -> Reply {
    let all = models.map(|model| (model.described(), model.runner.metrics.statistics()));
    Reply::json(documents::statistics(all).to_string())
}

pub(super) fn v1_models(app: &App) -> Reply {
    Reply::json(documents::v1_models(app.models.served_names().iter().map(String::as_str)).to_string())
}

pub(super) fn sample(model: &Model) -> Result<Reply> {
    let sample = model.sample.clone().ok_or_else(|| {
        let message =
            format!("model `{}` has no sample: its inputs have no JSON form, or are too large", model.name());
        Error::new(ErrorKind::NotFound, message)
    })?;
    Ok(Reply::json(sample))
}

/// Returns the OpenAPI document, in the version that `?version=` names: 2, 3 (the default) or 3.1.
pub(super) fn swagger(app: &App, query: Option<&str>) -> Result<Reply> {
    let models = app.models.loaded();
    let described: Vec<_> = models
        .highest()
        .map(|model| openapi::Described {
            name: model.name(),
            signature: &model.runner.signature,
            sample: model.sample.as_deref(),
        })
        .collect();
    let document = openapi::document(VERSION, &described, app.keys.is_some());
    let wanted =
        query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("version="));
    let document = match wanted {
        None | Some("3" | "3.0") => document,
        Some("2" | "2.0") => openapi::as_2(document),
        Some("3.1") => openapi::as_3_1(document),
        Some(_) => {
            return Err(Error::new(ErrorKind::NotFound, "there are versions 2, 3 and 3.1 of this document"));
        }
    };
    Ok(Reply::json(document.to_string()))
}
