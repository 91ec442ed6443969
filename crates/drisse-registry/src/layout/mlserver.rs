//! MLServer's `model-settings.json`, which KServe's runtimes read too.
//!
//! Source: <https://mlserver.readthedocs.io/en/stable/reference/model-settings.html>.

use super::{Layout, beside, configuration, invalid};
use crate::InspectError;
use crate::links::Links;
use serde::Deserialize;
use std::path::Path;

const SETTINGS: &str = "model-settings.json";

#[derive(Deserialize)]
struct ModelSettings {
    name: Option<String>,
    implementation: Option<String>,
    parameters: Option<Parameters>,
    max_batch_size: Option<usize>,
}

#[derive(Deserialize)]
struct Parameters {
    uri: Option<String>,
    version: Option<String>,
}

pub(super) fn layout(folder: &Path, links: &Links) -> Result<Option<Layout>, InspectError> {
    let path = folder.join(SETTINGS);
    let Some(text) = configuration(&path, links)? else { return Ok(None) };
    let settings: ModelSettings =
        serde_json::from_str(&text).map_err(|error| invalid(&path, error.to_string()))?;
    let (uri, version) = settings.parameters.map_or((None, None), |given| (given.uri, given.version));
    let named = match uri.as_deref().map(|uri| uri.trim_end_matches('/')) {
        None | Some("" | ".") => folder.to_owned(),
        Some(uri) => beside(folder, &path, uri)?,
    };
    let file = if named.is_dir() { crate::source::only_model(&named) } else { Ok(named) };
    let file = file.map_err(|error| {
        let implementation = settings.implementation.as_deref().unwrap_or("unknown");
        InspectError::Configuration {
            path: path.clone(),
            why: format!("its implementation is {implementation:.200}, and {error}"),
            hint: "Drisse serves ONNX models: convert the model where its framework is, and put `model.onnx` here"
                .to_owned(),
        }
    })?;
    let mut layout = Layout::new(file);
    layout.name = settings.name.filter(|name| !name.is_empty());
    // MLServer combines requests only if this is more than 1.
    layout.configured.max_batch = settings.max_batch_size.filter(|&most| most > 1);
    layout.configured.version = version;
    Ok(Some(layout))
}
