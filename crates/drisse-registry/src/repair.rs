//! Blobs that were damaged, and views that are not what they were: found, and made whole from elsewhere.

use crate::{Blob, BlobState, Manifest, Store, StoreError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

impl Store {
    /// Writes a blob anew, where it is damaged or missing, from the first of these files that has its bytes.
    /// That file; `None` where none has them.
    pub fn mend(
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

    /// Files of a model's view that have other bytes than they should, or are missing. One that was never
    /// made is whole.
    pub fn view_faults(&self, model_digest: &str, manifest: &Manifest) -> Vec<PathBuf> {
        let Ok(view) = self.existing_view(model_digest) else { return vec![] };
        let inode = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let whole = |(path, blob): &(PathBuf, Blob)| {
            let (file, kept) = (view.join(path), self.path(&blob.digest).ok());
            // A link to the blob is as good as that one.
            let linked = inode(&file).is_some() && inode(&file) == kept.as_deref().and_then(inode);
            linked || crate::digest::file_digest(&file).is_ok_and(|hex| blob.digest.ends_with(&hex))
        };
        manifest.content().filter(|file| !whole(file)).map(|(path, _)| view.join(path)).collect()
    }

    /// What a blob's length alone says; reads nothing of it.
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
    fn a_damaged_blob_is_written_anew_from_a_file_that_has_its_bytes_and_from_no_other() {
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
        assert_eq!(store.mend(&blob, [other.clone(), folder.path().to_owned()]).unwrap(), None);
        assert_eq!(store.mend(&blob, [other, right.clone()]).unwrap(), Some(right));
        assert_eq!(store.check(&blob.digest).unwrap(), BlobState::Good);
        assert_eq!(store.glance(&blob).unwrap(), BlobState::Good);
    }
}
