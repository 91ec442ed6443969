//! Partially pulled blobs: the bytes received so far are kept on disk, and a later pull continues from there.

use super::RemoteError;
use crate::StoreError;
use crate::blobs::{Blob, BlobState, Hashing, Store};
use crate::durable::{make_folder, sync_folder_of};
use drisse_core::crash_point;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// How many bytes are read at once.
const BLOCK: usize = 256 << 10;

/// A blob that is being received.
pub(super) struct Partial {
    /// Path of the bytes received so far.
    path: PathBuf,
    /// Path of the complete blob in the store.
    target: PathBuf,
    blob: Blob,
    file: Hashing<File>,
}

/// The result of receiving all bytes of a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The blob is in the store.
    Kept,
    /// The bytes have this other digest, and have been removed.
    Other(String),
}

impl Partial {
    /// Opens the partial file of a blob, with what an earlier run left; `None` if the blob is already in the store.
    pub(super) fn open(store: &Store, blob: &Blob) -> Result<Option<Self>, RemoteError> {
        if store.check(&blob.digest)? == BlobState::Good {
            return Ok(None);
        }
        let target = store.path(&blob.digest)?;
        let folder = store.root().join("partial");
        let path = folder.join(target.file_name().unwrap_or_default());
        let failed = |error: io::Error| StoreError::io("write", &path, error);
        make_folder(&folder).map_err(failed)?;
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

    pub(super) fn size(&self) -> u64 {
        self.file.size()
    }

    /// Discards the bytes received so far.
    pub(super) fn restart(&mut self) -> Result<(), RemoteError> {
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
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        self.file.write_all(bytes).map_err(|error| StoreError::io("write", &self.path, error).into())
    }

    /// Moves a complete blob into the store if its digest is right.
    pub(super) fn finish(self) -> Result<Outcome, RemoteError> {
        let (file, received) = self.file.into_parts();
        let failed = |error| RemoteError::from(StoreError::io("write", &self.target, error));
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

/// Returns a file as a request body. Calls `moved` with the number of bytes of each block.
pub(super) fn blocks(path: PathBuf, moved: impl Fn(u64) + Send + 'static) -> reqwest::Body {
    let next = move |file: Option<File>| {
        let mut file = file.map_or_else(|| File::open(&path), Ok)?;
        let mut block = vec![0; BLOCK];
        let count = file.read(&mut block)?;
        block.truncate(count);
        moved(count as u64);
        Ok::<_, io::Error>((count > 0).then_some((block, Some(file))))
    };
    reqwest::Body::wrap_stream(futures_util::stream::try_unfold(None, move |file| {
        std::future::ready(next(file))
    }))
}
