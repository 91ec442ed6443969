//! Folders of models as other servers and tools lay them out: Triton's, MLflow's and MLServer's.
//!
//! Their configuration says which file is the model, its name and version, and some of how it is run. What it says
//! beyond that is not followed, and noted.

mod mlflow;
mod mlserver;
mod textproto;
mod triton;

use crate::InspectError;
use crate::links::Links;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) use triton::check_no_repository;
pub use triton::triton_repository;

/// The longest configuration, in bytes (1 MiB): it is read into memory.
const MAX_CONFIGURATION: u64 = 1 << 20;

/// What the configuration beside a model says.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The model file.
    pub(crate) file: PathBuf,
    /// The model's name; `None` if that is the file's or the folder's.
    pub(crate) name: Option<String>,
    /// A `/score` body.
    pub(crate) sample: Option<PathBuf>,
    pub(crate) configured: Configured,
}

/// What the configuration of another server beside a model says of how it is served. The default says nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Configured {
    /// The model's version.
    pub version: Option<String>,
    /// The model files of all versions that are there, from the lowest to the highest.
    pub versions: Vec<(u64, PathBuf)>,
    /// Those of the versions that are served together, from the lowest to the highest.
    pub allowed: Vec<u64>,
    /// The number of concurrent runs.
    pub workers: Option<usize>,
    /// The most rows of a run that several requests share.
    pub max_batch: Option<usize>,
    /// What the configuration says beyond that, which has no effect: sentences for its user.
    pub notes: Vec<String>,
}

impl Layout {
    /// Returns the layout of a folder; `None` if it has no configuration of another server or tool. `version` is the one
    /// to take of Triton's allowed versions; `None`: the highest.
    ///
    /// # Errors
    /// Returns an error if there is such a configuration, and it is not valid or is not one of an ONNX model.
    pub(crate) fn of(
        folder: &Path,
        links: &Links,
        version: Option<u64>,
    ) -> Result<Option<Self>, InspectError> {
        if let Some(layout) = mlflow::layout(folder, links)? {
            return Ok(Some(layout));
        }
        if let Some(layout) = mlserver::layout(folder, links)? {
            return Ok(Some(layout));
        }
        triton::layout(folder, links, version)
    }

    /// Returns a layout that has only a model file.
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, name: None, sample: None, configured: Configured::default() }
    }
}

/// Reads a file of configuration; `None` if it does not exist.
fn configuration(path: &Path, links: &Links) -> Result<Option<String>, InspectError> {
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let mut text = String::new();
    let read = links.open(path)?.file.take(MAX_CONFIGURATION + 1).read_to_string(&mut text);
    match read {
        Ok(bytes) if bytes as u64 > MAX_CONFIGURATION => {
            Err(invalid(path, format!("it has more than {MAX_CONFIGURATION} bytes")))
        }
        Ok(_) => Ok(Some(text)),
        Err(source) => Err(InspectError::Io { path: path.to_owned(), source }),
    }
}

/// Returns the path of a file that a configuration names, which is beside the configuration or in a folder there.
fn beside(folder: &Path, configuration: &Path, named: &str) -> Result<PathBuf, InspectError> {
    let named = named.strip_prefix("./").unwrap_or(named);
    match crate::package::is_plain(named) {
        true => Ok(folder.join(named)),
        false => Err(invalid(
            configuration,
            format!("it names the file `{named:.200}`, which is not in its folder"),
        )),
    }
}

/// Returns the error of a configuration that cannot be used.
fn invalid(path: &Path, why: String) -> InspectError {
    InspectError::Configuration {
        path: path.to_owned(),
        why,
        hint: "correct it, or name the model file itself".to_owned(),
    }
}

/// Returns a name that can be that of a model, if it says anything: tools call many models `model`.
fn telling(name: &str) -> Option<&str> {
    let is_hex = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_generic = ["", "model", "models", "artifacts", "mlruns", "mlartifacts", "data"].contains(&name)
        || name.bytes().all(|byte| byte.is_ascii_digit())
        || is_hex(name.strip_prefix("m-").unwrap_or(name));
    (!is_generic && !name.contains(['/', ':'])).then_some(name)
}

#[cfg(test)]
mod tests;
