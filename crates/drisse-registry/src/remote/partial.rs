//! A blob that is on its way: what came so far is kept, and goes on from there.

use super::RemoteError;
use crate::StoreError;
use crate::blobs::{Blob, BlobState, Hashing, Store};
use crate::durable::{make_folder, sync_folder_of};
use drisse_core::step;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// What is read at once.
const BLOCK: usize = 256 << 10;

/// A blob's bytes so far.
pub(super) struct Partial {
    path: PathBuf,
    place: PathBuf,
    blob: Blob,
    file: Hashing<File>,
}

/// What became of a blob that came whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is in the store.
    Kept,
    /// Its bytes have another digest; they are gone.
    Other(String),
}

impl Partial {
    /// What an earlier run left; nothing where the blob is there already.
    pub(super) fn open(store: &Store, blob: &Blob) -> Result<Option<Self>, RemoteError> {
        if store.check(&blob.digest)? == BlobState::Good {
            return Ok(None);
        }
        let place = store.path(&blob.digest)?;
        let folder = store.root().join("partial");
        let path = folder.join(place.file_name().unwrap_or_default());
        let failed = |error: io::Error| StoreError::io("write", &path, error);
        make_folder(&folder).map_err(failed)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path).map_err(failed)?;
        let mut there = Hashing::new(io::sink());
        io::copy(&mut io::BufReader::with_capacity(BLOCK, &mut file), &mut there).map_err(failed)?;
        let mut partial = Self { file: there.over(file), path: path.clone(), place, blob: blob.clone() };
        if partial.size() > blob.size {
            partial.restart()?;
        }
        Ok(Some(partial))
    }

    pub(super) fn size(&self) -> u64 {
        self.file.size()
    }

    /// Forgets what came so far.
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

    /// Takes more of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), RemoteError> {
        self.file.write_all(bytes).map_err(|error| StoreError::io("write", &self.path, error).into())
    }

    /// Puts a whole blob in its place, if its bytes are what they should be.
    pub(super) fn finish(self) -> Result<Outcome, RemoteError> {
        let (file, came) = self.file.into_parts();
        let failed = |error| RemoteError::from(StoreError::io("write", &self.place, error));
        if came != self.blob {
            fs::remove_file(&self.path).map_err(failed)?;
            return Ok(Outcome::Other(came.digest));
        }
        file.set_permissions(fs::Permissions::from_mode(0o400)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        step("a blob has come");
        fs::rename(&self.path, &self.place).map_err(failed)?;
        sync_folder_of(&self.place).map_err(failed)?;
        Ok(Outcome::Kept)
    }
}

/// A file's blocks, as a body to be sent.
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
