//! Tensors kept in files beside the model: only plain files below its folder are accepted.

use crate::InspectError;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Weights were written: a file of which less than this part was is an unfinished download, or made to keep
/// whoever reads it busy. File systems that compress do not come near.
const HOLES: u64 = 1000;

/// A smaller file is read in no time, whatever it holds.
const LITTLE: u64 = 1 << 30;

/// A file beside the model that holds tensors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExternalFile {
    /// Where, relative to the model's folder.
    pub location: String,
    /// Its bytes.
    pub size: u64,
}

/// Refuses places that are absolute, lead out of the folder or through a link, or do not exist.
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
        return Err(refused("is no path"));
    }
    let mut place = PathBuf::from(folder);
    let mut size = None;
    for component in relative.components() {
        match component {
            Component::Normal(name) => place.push(name),
            Component::CurDir => continue,
            Component::ParentDir => return Err(refused("leads out of the model's folder (`..`)")),
            Component::RootDir | Component::Prefix(_) => return Err(refused("is an absolute path")),
        }
        let metadata = match place.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(refused("is not there: copy it beside the model"));
            }
            Err(source) => return Err(InspectError::Io { path: place, source }),
        };
        if metadata.is_symlink() {
            return Err(refused("is a link: put the file itself beside the model"));
        }
        size = metadata.is_file().then_some(metadata.len());
        // `st_blocks` counts 512 bytes each.
        if metadata.len() > LITTLE && metadata.blocks() * 512 < metadata.len() / HOLES {
            return Err(refused("is almost nothing but holes: copy or download it again"));
        }
    }
    match size {
        Some(size) => Ok(ExternalFile { location, size }),
        None => Err(refused("is no regular file")),
    }
}
