//! What a server says of itself and of its models.

use super::reply::Reply;
use crate::app::App;
use crate::model::Model;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::{documents, openapi};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn server() -> Reply {
    Reply::json(documents::server_metadata(VERSION).to_string())
}

pub(super) fn model(model: &Model) -> Reply {
    let document =
        documents::model_metadata(model.name.as_str(), &model.version, model.platform, &model.signature);
    Reply::json(document.to_string())
}

pub(super) fn sample(model: &Model) -> Result<Reply> {
    let sample = model.sample.clone().ok_or_else(|| {
        let message =
            format!("model `{}` has no sample: its inputs have no JSON form, or are too large", model.name);
        Error::new(ErrorKind::NotFound, message)
    })?;
    Ok(Reply::json(sample))
}

pub(super) fn swagger(app: &App) -> Reply {
    let models = app.models();
    let described: Vec<_> = models
        .iter()
        .map(|model| openapi::Described {
            name: model.name.as_str(),
            signature: &model.signature,
            sample: model.sample.as_deref(),
        })
        .collect();
    Reply::json(openapi::document(VERSION, &described, app.keys.is_some()).to_string())
}
