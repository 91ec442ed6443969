//! Finding damaged blobs and views, and repairing blobs from other copies of their bytes.

use crate::{Blob, BlobState, Manifest, Store, StoreError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

impl Store {
    /// Rewrites a damaged or missing blob from the first of `files` that has its bytes. Returns that file, or `None`
    /// if no file has them.
    ///
    /// # Errors
    ///
    /// Returns an error if the blob cannot be written, or [`StoreError::Changed`] if the file changes meanwhile.
    pub fn repair(
        &self,
        blob: &Blob,
        files: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Option<PathBuf>, StoreError> {
        let fits = |file: &PathBuf| {
            let large = std::fs::metadata(file).is_ok_and(|file| file.is_file() && file.len() == blob.size);
            large && crate::digest::file_digest(file).is_ok_and(|hex| blob.digest.ends_with(&hex))
        };
        let Some(file) = files.into_iter().find(fits) else { return Ok(None) };
        let written = self.put_file(&file, &|_| ())?;
        if written == *blob { Ok(Some(file)) } else { Err(StoreError::Changed { path: file }) }
    }

    /// Returns the files of a model's view that are missing or do not match their digests. A view that does not exist
    /// has no faults.
    pub fn view_faults(&self, model_digest: &str, manifest: &Manifest) -> Vec<PathBuf> {
        let Ok(view) = self.existing_view(model_digest) else { return vec![] };
        let inode = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let whole = |(path, blob): &(PathBuf, Blob)| {
            let (file, kept) = (view.join(path), self.path(&blob.digest).ok());
            // A hard link to the blob need not be hashed: blobs are checked by themselves.
            let linked = inode(&file).is_some() && inode(&file) == kept.as_deref().and_then(inode);
            linked || crate::digest::file_digest(&file).is_ok_and(|hex| blob.digest.ends_with(&hex))
        };
        manifest.content().filter(|file| !whole(file)).map(|(path, _)| view.join(path)).collect()
    }

    /// Checks only that a blob exists with the right length. [`Store::check`] also hashes its bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if `blob.digest` is not a digest or the blob's metadata cannot be read.
    pub fn glance(&self, blob: &Blob) -> Result<BlobState, StoreError> {
        let path = self.path(&blob.digest)?;
        match std::fs::metadata(&path) {
            Ok(file) if file.is_file() && file.len() == blob.size => Ok(BlobState::Good),
            Ok(_) => Ok(BlobState::Corrupt),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BlobState::Missing),
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_blob_is_rewritten_from_a_file_that_has_its_bytes_and_from_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let blob = store.put_bytes(b"weights").unwrap();
        let path = store.path(&blob.digest).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(store.glance(&blob).unwrap(), BlobState::Missing);
        let file = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
            folder.path().join(name)
        };
        let (other, right) = (file("other", b"weighty"), file("right", b"weights"));
        assert_eq!(store.repair(&blob, [other.clone(), folder.path().to_owned()]).unwrap(), None);
        assert_eq!(store.repair(&blob, [other, right.clone()]).unwrap(), Some(right));
        assert_eq!(store.check(&blob.digest).unwrap(), BlobState::Good);
        assert_eq!(store.glance(&blob).unwrap(), BlobState::Good);
    }
}
