//! Reading images written by Drisse or other tools: OCI image layouts, as folders or archives.
//!
//! Archives are not trusted: an archive may hold only the files of an OCI image layout, each once, and every blob must
//! match its digest.

use super::ImageError;
use crate::archive::{Refused, Stream};
use crate::blobs::{Store, is_hex};
use crate::durable::make_folder;
use crate::package::REF_NAME;
use serde_json::Value;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// Longest document beside the blobs, such as `index.json`, in bytes (4 MiB).
const MAX_DOCUMENT: u64 = 4 << 20;

/// Documents that an archive may have beside the blobs. The last two are of `docker save` and are not used.
const DOCUMENTS: [&str; 4] = ["oci-layout", "index.json", "manifest.json", "repositories"];

/// Unpacks a tar archive of an image layout into `folder`, which is created if it does not exist.
///
/// # Errors
///
/// Returns [`ImageError::Archive`] if the archive is damaged or holds anything else, or another error if a file cannot
/// be written.
pub fn unpack(archive: impl Read, folder: &Path) -> Result<(), ImageError> {
    let wrong = |why: String| ImageError::Archive { why };
    make_folder(folder).map_err(|error| ImageError::io("make", folder, error))?;
    let store = Store::open(folder)?;
    Stream::new(archive, u64::MAX).files(
        |_| true,
        |name, size, data| {
            if DOCUMENTS.contains(&name) {
                if size > MAX_DOCUMENT {
                    return Err(wrong(format!("its entry `{name}` is longer than {MAX_DOCUMENT} bytes")));
                }
                let mut text = Vec::new();
                data.read_to_end(&mut text).map_err(|error| wrong(error.to_string()))?;
                let is_used = name == "index.json" && text.len() as u64 == size;
                return if is_used { Ok(store.replace(&folder.join(name), &text)?) } else { Ok(()) };
            }
            let hex = name.strip_prefix("blobs/sha256/").filter(|hex| is_hex(hex));
            let hex = hex.ok_or_else(|| wrong(format!("its entry `{name}` does not belong to an image")))?;
            let blob = store.put(|out| io::copy(data, out).map(drop))?;
            if blob.digest.ends_with(hex) {
                return Ok(());
            }
            Err(wrong(format!("its blob {hex} has the digest {}", blob.digest)))
        },
    )
}

impl From<Refused> for ImageError {
    fn from(Refused(why): Refused) -> Self {
        Self::Archive { why }
    }
}

/// Returns the digest of the manifest of the image named `reference` in a layout, or of the only image if `None`.
///
/// # Errors
///
/// Returns [`ImageError::Unnamed`] if there is not exactly one such image, or another error if `index.json` cannot be
/// read.
pub fn image_in(folder: &Path, reference: Option<&str>) -> Result<String, ImageError> {
    let index = folder.join("index.json");
    let failed = |error: io::Error| ImageError::io("read", &index, error);
    if fs::metadata(&index).map_err(failed)?.len() > MAX_DOCUMENT {
        return Err(failed(io::Error::other("the file is too long")));
    }
    let document: Value = serde_json::from_slice(&fs::read(&index).map_err(failed)?)
        .map_err(|error| failed(io::Error::other(error)))?;
    let entries = document["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
    let wanted = |entry: &&Value| reference.is_none() || name(entry).as_deref() == reference;
    let mut found = entries.iter().filter(wanted);
    match (found.next().and_then(|entry| entry["digest"].as_str()), found.next()) {
        (Some(digest), None) => Ok(digest.to_owned()),
        _ => {
            let there = entries.iter().filter_map(name).collect::<Vec<_>>().join(", ");
            Err(ImageError::Unnamed { path: folder.to_owned(), there })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::Blob;

    /// Returns an archive of these entries: name, type, bytes, and the size in the header.
    fn archive(entries: &[(&str, tar::EntryType, &[u8], u64)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, kind, bytes, size) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(*size);
            header.set_mode(0o644);
            header.set_link_name("/etc/passwd").unwrap();
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(bytes);
            out.resize(out.len().div_ceil(512) * 512, 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    #[test]
    fn what_does_not_belong_to_an_image_is_refused_and_nothing_leaves_the_folder() {
        use tar::EntryType::{Block, Char, Link, Regular, Symlink};
        let good = format!("blobs/sha256/{}", &Blob::of(b"x").digest[7..]);
        let other = format!("blobs/sha256/{}", "0".repeat(64));
        for (entries, why) in [
            (vec![("../x", Regular, &b"x"[..], 1)], "not a plain path"),
            (vec![("/etc/x", Regular, b"x", 1)], "not a plain path"),
            (vec![("blobs/sha256/../../x", Regular, b"x", 1)], "not a plain path"),
            (vec![("etc/x", Regular, b"x", 1)], "does not belong to an image"),
            (vec![("index.json", Symlink, b"", 0)], "not a regular file"),
            (vec![(&*good, Link, b"", 0)], "not a regular file"),
            (vec![(&*good, Char, b"", 0)], "not a regular file"),
            (vec![(&*good, Block, b"", 0)], "not a regular file"),
            (vec![(&*good, Regular, b"x", 1), (&*good, Regular, b"x", 1)], "appears twice"),
            (vec![(&*other, Regular, b"x", 1)], "has the digest"),
            (vec![(&*good, Regular, b"x", 2000)], "has the digest"),
            (vec![("index.json", Regular, b"x", 1 << 30)], "is longer than"),
            (vec![("index.json", Regular, b"x", 4000)], "it ends inside"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let inside = folder.path().join("a/b");
            let error = unpack(&*archive(&entries), &inside).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(format!("{error} {source}").contains(why), "{entries:?}: {error}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
