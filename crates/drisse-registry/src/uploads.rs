//! Files that clients have sent, kept until a model is registered from them.

use crate::StoreError;
use crate::blobs::{Blob, BlobState, Store, link_or_copy};
use crate::durable::{folder_of, make_folder};
use crate::package::is_plain;
use crate::partial::Partial;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The uploaded files beside a store: an OCI image layout of its own, in the folder `uploads` of the store. All methods
/// block on file system calls.
#[derive(Clone, Debug)]
pub struct Uploads {
    store: Store,
    layout: Store,
    /// Held shared while files are used, and exclusively while some are removed.
    using: Arc<RwLock<()>>,
}

/// The largest manifest or signature of a package, in bytes (4 MiB): it is read into memory.
const MAX_DOCUMENT: u64 = 4 << 20;

/// A folder that has uploaded files under their names. It is removed when this is dropped.
#[derive(Debug)]
pub struct Staged(tempfile::TempDir);

impl Staged {
    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Uploads {
    /// Returns the uploads beside a store. Creates nothing.
    pub fn new(store: &Store) -> Self {
        let layout = Store::existing(&store.root().join("uploads"));
        Self { store: store.clone(), layout, using: Arc::default() }
    }

    /// Keeps the files of models from being removed. Hold the guard while a package of the layout is used.
    pub fn using(&self) -> RwLockReadGuard<'_, ()> {
        self.using.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the image layout that has the files which have been received whole.
    pub fn layout(&self) -> &Store {
        &self.layout
    }

    /// Returns how many bytes of a file are here; `None` if all are, as an upload or as a part of a model.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Digest`] if `digest` is not of the form `sha256:HEX`, or [`StoreError::Io`].
    pub fn received(&self, digest: &str) -> Result<Option<u64>, StoreError> {
        for store in [&self.layout, &self.store] {
            if store.check(digest)? == BlobState::Good {
                return Ok(None);
            }
        }
        self.layout.received(digest).map(Some)
    }

    /// Opens what has been received of a file, to add to it; `None` if it has been received whole.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Digest`] if the blob's digest is not valid, [`StoreError::Size`] if more of it is here than its
    /// size, or [`StoreError::Io`].
    pub fn receive(&self, blob: &Blob) -> Result<Option<Partial>, StoreError> {
        let path = self.layout.path(&blob.digest)?;
        let folder = folder_of(&path);
        make_folder(folder).map_err(|error| StoreError::io("make", folder, error))?;
        let free =
            rustix::fs::statvfs(folder).map_err(|error| StoreError::io("read", folder, error.into()))?;
        let received = self.layout.received(&blob.digest)?;
        if received > blob.size {
            let Blob { digest, size } = blob.clone();
            return Err(StoreError::Size { digest, received, size });
        }
        let missing = blob.size - received;
        if missing > free.f_bavail.saturating_mul(free.f_frsize) {
            return Err(StoreError::io("write", &path, io::ErrorKind::StorageFull.into()));
        }
        Partial::open(&self.layout, blob)
    }

    /// Makes a folder with these files: their paths in it, and their digests.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::NotUploaded`] if a file is not here, [`StoreError::Names`] if a path leads out of the folder or
    /// through another file, or [`StoreError::Io`].
    pub fn stage(&self, files: &BTreeMap<String, String>) -> Result<Staged, StoreError> {
        let _using = self.using();
        let staged = self.store.scratch_for("upload")?;
        for (name, digest) in files {
            let refused = |why: &str| StoreError::Names { why: format!("`{name:.200}` {why}") };
            if !is_plain(name) {
                return Err(refused("is not the path of a file in a folder"));
            }
            let path = staged.path().join(name);
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    refused("is a file and a folder")
                }
                _ => StoreError::io("write", &path, error),
            };
            fs::create_dir_all(folder_of(&path)).map_err(failed)?;
            link_or_copy(&self.find(digest)?, &path).map_err(failed)?;
        }
        Ok(Staged(staged))
    }

    /// Adds to the layout what the store has of these packages and signatures, which clients need not send.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::NotUploaded`] if a manifest is not here, [`StoreError::Manifest`] if one or a signature is
    /// larger than 4 MiB, or another error if it cannot be read.
    pub fn complete(&self, package: &str, signatures: &[String]) -> Result<(), StoreError> {
        for manifest in signatures.iter().map(String::as_str).chain([package]) {
            self.adopt(manifest, MAX_DOCUMENT)?;
            let document: Value = serde_json::from_slice(&self.layout.read(manifest)?).unwrap_or_default();
            // The weights of a package are not read into memory.
            let largest = if manifest == package { u64::MAX } else { MAX_DOCUMENT };
            let layers = document["layers"].as_array().into_iter().flatten().map(|layer| (layer, largest));
            for (blob, largest) in layers.chain([(&document["config"], MAX_DOCUMENT)]) {
                if let Some(digest) = blob["digest"].as_str() {
                    self.adopt(digest, largest)?;
                }
            }
        }
        Ok(())
    }

    /// Links a blob of the store into the layout, if only the store has it.
    fn adopt(&self, digest: &str, largest: u64) -> Result<(), StoreError> {
        let (found, path) = (self.find(digest)?, self.layout.path(digest)?);
        let failed = |error| StoreError::io("write", &path, error);
        if fs::metadata(&found).map_err(failed)?.len() > largest {
            let why = format!("it is larger than {largest} bytes");
            return Err(StoreError::Manifest { digest: digest.to_owned(), why });
        }
        if found == path {
            return Ok(());
        }
        make_folder(folder_of(&path)).map_err(failed)?;
        match link_or_copy(&found, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.map_err(failed),
        }
    }

    fn find(&self, digest: &str) -> Result<PathBuf, StoreError> {
        for store in [&self.layout, &self.store] {
            let path = store.path(digest)?;
            if path.exists() {
                return Ok(path);
            }
        }
        Err(StoreError::NotUploaded { digest: digest.to_owned() })
    }

    /// Removes the files that the store has, too: models are registered from them. Does nothing while files are used.
    pub fn forget_kept(&self) {
        let is_kept = |name: &str| self.store.path(&format!("sha256:{name}")).is_ok_and(|path| path.exists());
        self.forget("blobs/sha256", |name, _| is_kept(name));
    }

    /// Removes the files to which nothing was added for longer than `age`.
    pub fn forget_old(&self, age: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_old = |changed: i64| now.as_secs().saturating_sub(changed.unsigned_abs()) > age.as_secs();
        for folder in ["blobs/sha256", "partial"] {
            self.forget(folder, |_, file| is_old(file.ctime()));
        }
    }

    /// Removes the files of which `is_over` is true. A file that cannot be removed is removed by a later call.
    fn forget(&self, folder: &str, is_over: impl Fn(&str, &fs::Metadata) -> bool) {
        let Ok(_alone) = self.using.try_write() else { return };
        let entries = fs::read_dir(self.layout.root().join(folder)).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if entry.metadata().is_ok_and(|file| is_over(&name.to_string_lossy(), &file)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
