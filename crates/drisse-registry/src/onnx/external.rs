//! External data: tensors in files beside the model. Only regular files in or below the model's folder are accepted.

use crate::InspectError;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A file that uses less than 1/1000 of its size on disk is refused: it is an unfinished download, or made to keep
/// readers busy. Compressing file systems do not reach this ratio with weights.
const MAX_HOLES: u64 = 1000;

/// Files of at most 1 GiB are read quickly even if they are sparse, and are not checked for holes.
const SMALL: u64 = 1 << 30;

/// A file beside the model that holds tensors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExternalFile {
    /// Path relative to the model's folder.
    pub location: String,
    /// Size in bytes.
    pub size: u64,
}

/// Checks the paths of external data. Refuses paths that are absolute, leave the folder, pass through a link or do not
/// exist.
pub(super) fn check(model: &Path, locations: BTreeSet<String>) -> Result<Vec<ExternalFile>, InspectError> {
    let folder = model.parent().unwrap_or(Path::new(""));
    locations.into_iter().map(|location| one(model, folder, location)).collect()
}

fn one(model: &Path, folder: &Path, location: String) -> Result<ExternalFile, InspectError> {
    let refused = |why: &str| InspectError::ExternalData {
        path: model.to_owned(),
        location: location.clone(),
        why: why.to_owned(),
    };
    let relative = Path::new(&location);
    if location.is_empty() || location.contains('\0') {
        return Err(refused("is not a path"));
    }
    let mut path = PathBuf::from(folder);
    let mut size = None;
    for component in relative.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => continue,
            Component::ParentDir => return Err(refused("leads out of the model's folder (`..`)")),
            Component::RootDir | Component::Prefix(_) => return Err(refused("is an absolute path")),
        }
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(refused("does not exist: copy it beside the model"));
            }
            Err(source) => return Err(InspectError::Io { path, source }),
        };
        if metadata.is_symlink() {
            return Err(refused("is a link: put the file itself beside the model"));
        }
        size = metadata.is_file().then_some(metadata.len());
        // `st_blocks` counts units of 512 bytes.
        if metadata.len() > SMALL && metadata.blocks() * 512 < metadata.len() / MAX_HOLES {
            return Err(refused("is almost nothing but holes: copy or download it again"));
        }
    }
    match size {
        Some(size) => Ok(ExternalFile { location, size }),
        None => Err(refused("is not a regular file")),
    }
}
