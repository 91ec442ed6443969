//! Partially received blobs: the bytes received so far are kept on disk, and a later attempt continues from there.

use crate::StoreError;
use crate::blobs::{Blob, BlobState, Hashing, Store};
use crate::durable::{folder_of, make_folder, sync_folder_of};
use drisse_core::crash_point;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// How many bytes are read at once.
const BLOCK: usize = 256 << 10;

/// A blob that is being received. If it is dropped, its bytes stay for the next attempt.
#[derive(Debug)]
pub struct Partial {
    /// Path of the bytes received so far.
    path: PathBuf,
    /// Path of the complete blob in the store.
    target: PathBuf,
    blob: Blob,
    file: Hashing<File>,
}

/// The result of receiving all bytes of a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The blob is in the store.
    Kept,
    /// The bytes have this other digest, and have been removed.
    Other(String),
}

impl Partial {
    /// Opens the partial file of a blob, with what an earlier attempt left; `None` if the blob is already in the store.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Digest`] if the blob's digest is not valid, or [`StoreError::Io`].
    pub fn open(store: &Store, blob: &Blob) -> Result<Option<Self>, StoreError> {
        if store.check(&blob.digest)? == BlobState::Good {
            return Ok(None);
        }
        let target = store.path(&blob.digest)?;
        let path = store.partial(&blob.digest)?;
        let failed = |error: io::Error| StoreError::io("write", &path, error);
        make_folder(folder_of(&path)).map_err(failed)?;
        // A process that was killed while it finished the file has left it read-only.
        if path.exists() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        let mut received = Hashing::new(io::sink());
        io::copy(&mut io::BufReader::with_capacity(BLOCK, &mut file), &mut received).map_err(failed)?;
        let mut partial = Self { file: received.over(file), path: path.clone(), target, blob: blob.clone() };
        if partial.size() > blob.size {
            partial.restart()?;
        }
        Ok(Some(partial))
    }

    /// Returns the number of bytes received so far.
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// Discards the bytes received so far.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the file cannot be truncated.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        let opened = || {
            let file = fs::OpenOptions::new().read(true).append(true).open(&self.path)?;
            file.set_len(0)?;
            Ok(file)
        };
        let file = opened().map_err(|error| StoreError::io("write", &self.path, error))?;
        self.file = Hashing::new(file);
        Ok(())
    }

    /// Appends received bytes.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|error| StoreError::io("write", &self.path, error))
    }

    /// Moves a complete blob into the store if its digest is right.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the file cannot be synced, renamed or removed.
    pub fn finish(self) -> Result<Outcome, StoreError> {
        let (file, received) = self.file.into_parts();
        let failed = |error| StoreError::io("write", &self.target, error);
        if received != self.blob {
            fs::remove_file(&self.path).map_err(failed)?;
            return Ok(Outcome::Other(received.digest));
        }
        file.set_permissions(fs::Permissions::from_mode(0o400)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        crash_point("a blob has come");
        fs::rename(&self.path, &self.target).map_err(failed)?;
        sync_folder_of(&self.target).map_err(failed)?;
        Ok(Outcome::Kept)
    }
}

impl Store {
    /// Returns the number of bytes received so far of a blob that is not in the store yet.
    pub(crate) fn received(&self, digest: &str) -> Result<u64, StoreError> {
        Ok(fs::metadata(self.partial(digest)?).map_or(0, |file| file.len()))
    }

    /// Returns the path of the partial file of a blob.
    fn partial(&self, digest: &str) -> Result<PathBuf, StoreError> {
        Ok(self.root().join("partial").join(self.path(digest)?.file_name().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_end_was_interrupted_is_finished_by_the_next_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let blob = Blob::of(b"weights");
        let mut partial = Partial::open(&store, &blob).unwrap().unwrap();
        partial.write(b"weights").unwrap();
        let path = store.partial(&blob.digest).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        let again = Partial::open(&store, &blob).unwrap().unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600,
            "any user can add to it"
        );
        assert_eq!((again.size(), again.finish().unwrap()), (7, Outcome::Kept));
        assert!(Partial::open(&store, &blob).unwrap().is_none());
    }
}
