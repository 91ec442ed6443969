//! Names of models: `NAME`, `NAME:VERSION`, and names derived from files.

use crate::blocking::blocking;
use crate::error::{ControlError, Result};
use drisse_core::ServiceName;
use drisse_registry::ModelSource;
use std::path::Path;

/// Splits `NAME` or `NAME:VERSION`.
pub(crate) fn split_version(text: &str) -> Result<(&str, Option<u64>)> {
    let Some((name, version)) = text.split_once(':') else { return Ok((text, None)) };
    let number = version.parse().ok().filter(|&number| number > 0);
    let number = number.ok_or_else(|| {
        ControlError::invalid(format!("`{version}` is not a version"))
            .hint("versions are numbers from 1: `name:3`")
    })?;
    Ok((name, Some(number)))
}

/// Returns the name of a model without a given name, derived from the stem of its file or the name of its folder.
pub(crate) fn derived_name(stem: &str) -> Result<String> {
    let name = ServiceName::of_stem(stem).map(|name| name.to_string());
    name.ok_or_else(|| {
        ControlError::invalid(format!("cannot derive a model name from `{stem}`"))
            .hint("choose a name: --name NAME")
    })
}

/// Opens a model on a blocking thread.
pub(crate) async fn open_source(path: &Path, follow_links: bool) -> Result<ModelSource> {
    if !path.is_absolute() {
        return Err(ControlError::invalid(format!("{} is not an absolute path", path.display())));
    }
    let path = path.to_owned();
    blocking(move || Ok(ModelSource::open_following(&path, follow_links)?.to_run()?)).await
}
