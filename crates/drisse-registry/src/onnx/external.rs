//! External data: tensors in files beside the model. Only regular files in or below the model's folder are accepted.

use crate::InspectError;
use crate::durable::folder_of;
use crate::links::Links;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

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

/// Checks the paths of external data. Refuses paths that are absolute, contain `..`, do not exist or lead through a link
/// that is not followed.
pub(super) fn check(
    model: &Path,
    locations: BTreeSet<String>,
    links: &Links,
) -> Result<Vec<ExternalFile>, InspectError> {
    let refused = |location: &str, why: &str| InspectError::ExternalData {
        path: model.to_owned(),
        location: location.to_owned(),
        why: why.to_owned(),
    };
    let one = |location: String| {
        if let Some(why) = unusable(&location) {
            return Err(refused(&location, why));
        }
        let path = folder_of(model).join(&location);
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(match path.is_symlink() {
                    true => refused(&location, "is a link to a file that does not exist"),
                    false => InspectError::MissingData { path: model.to_owned(), location },
                });
            }
            Err(source) => return Err(InspectError::Io { path, source }),
        };
        if !metadata.is_file() {
            return Err(refused(&location, "is not a regular file"));
        }
        // `st_blocks` counts units of 512 bytes.
        if metadata.len() > SMALL && metadata.blocks() * 512 < metadata.len() / MAX_HOLES {
            return Err(refused(&location, "is almost nothing but holes: copy or download it again"));
        }
        links.open(&path)?;
        Ok(ExternalFile { location, size: metadata.len() })
    };
    locations.into_iter().map(one).collect()
}

/// Returns why a location cannot be a path in the model's folder, or `None` if it can.
fn unusable(location: &str) -> Option<&'static str> {
    if location.is_empty() || location.contains('\0') {
        return Some("is not a path");
    }
    Path::new(location).components().find_map(|component| match component {
        Component::Normal(_) | Component::CurDir => None,
        Component::ParentDir => Some("leads out of the model's folder (`..`)"),
        Component::RootDir | Component::Prefix(_) => Some("is an absolute path"),
    })
}
