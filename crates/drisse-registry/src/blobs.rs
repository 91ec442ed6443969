//! The store: an OCI image layout whose blobs are written atomically.
//!
//! Layout: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>.

use crate::StoreError;
use crate::durable::{make_folder, sync_folder, sync_folder_of};
use drisse_core::crash_point;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard};

/// Blocks of this many bytes that are all zeros are not written, so that sparse files stay sparse.
const BLOCK: usize = 64 << 10;

/// A content-addressed store: a folder of blobs, each named by the SHA-256 of its bytes.
///
/// Clones share the lock of [`Store::packing`]. All methods block on file system calls.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<PathBuf>,
    /// Held shared while a package is written and exclusively by the garbage collector, so that the collector does
    /// not remove blobs of an unfinished package.
    packing: Arc<RwLock<()>>,
}

/// A blob in the store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Blob {
    /// `sha256:HEX`.
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
}

/// The result of comparing a blob's bytes with its digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobState {
    /// The bytes match the digest.
    Good,
    /// The bytes do not match the digest.
    Corrupt,
    /// The blob does not exist.
    Missing,
}

impl Blob {
    /// Returns the blob that `bytes` would be stored as.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { digest: format!("sha256:{}", hex(&Sha256::digest(bytes))), size: bytes.len() as u64 }
    }
}

impl Store {
    /// Opens the store at `root` and creates it if it does not exist. Removes what an earlier process left
    /// half-written.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the folders cannot be created or read.
    ///
    /// ```
    /// let folder = tempfile::tempdir()?;
    /// let store = drisse_registry::Store::open(folder.path())?;
    /// let blob = store.put_bytes(b"weights")?;
    /// assert_eq!(store.read(&blob.digest)?, b"weights");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self::existing(root);
        for folder in ["blobs/sha256", "views", "ingest"] {
            let path = root.join(folder);
            make_folder(&path).map_err(|error| StoreError::io("make", &path, error))?;
        }
        let ingest = root.join("ingest");
        let left = fs::read_dir(&ingest).map_err(|error| StoreError::io("read", &ingest, error))?;
        for entry in left.flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        if !root.join("oci-layout").exists() {
            store.replace(&root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(store)
    }

    /// Returns the store at `root` without creating or removing anything.
    pub fn existing(root: &Path) -> Self {
        Self { root: Arc::new(root.to_owned()), packing: Arc::default() }
    }

    /// Locks out [`Store::collect`]. Hold the guard from the first blob of a package until something refers to the
    /// package.
    pub fn packing(&self) -> RwLockReadGuard<'_, ()> {
        self.packing.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Copies a file into the store as a blob. Calls `progress` with the number of bytes of each chunk.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the file cannot be read or the blob cannot be written.
    pub fn put_file(&self, path: &Path, progress: &dyn Fn(u64)) -> Result<Blob, StoreError> {
        let source = crate::digest::open(path).map_err(|error| StoreError::io("read", path, error))?;
        self.put_opened(source, path, progress)
    }

    /// Does the same as [`Self::put_file`] with an opened file.
    pub(crate) fn put_opened(
        &self,
        mut source: File,
        path: &Path,
        progress: &dyn Fn(u64),
    ) -> Result<Blob, StoreError> {
        let read = |error| StoreError::io("read", path, error);
        let mut target = self.scratch()?;
        let wrote = |error| StoreError::io("write", &self.scratch_folder(), error);
        let mut hasher = Sha256::new();
        let mut size = 0_u64;
        let mut buffer = vec![0; 16 * BLOCK];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(read(error)),
            };
            hasher.update(&buffer[..count]);
            write_sparse(target.as_file_mut(), &buffer[..count]).map_err(wrote)?;
            size += count as u64;
            progress(count as u64);
        }
        target.as_file().set_len(size).map_err(wrote)?;
        self.keep(target, Blob { digest: format!("sha256:{}", hex(&hasher.finalize())), size })
    }

    /// Stores `bytes` as a blob.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the blob cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        self.put(|out| out.write_all(bytes))
    }

    /// Stores the bytes that `write` writes as a blob.
    pub(crate) fn put(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Blob, StoreError> {
        let mut target = self.scratch()?;
        let mut out = Hashing::new(io::BufWriter::with_capacity(BLOCK, target.as_file_mut()));
        let wrote = write(&mut out).and_then(|()| out.flush());
        wrote.map_err(|error| StoreError::io("write", &self.scratch_folder(), error))?;
        let blob = out.finish();
        self.keep(target, blob)
    }

    /// Returns the path of a blob's file, whether or not the file exists.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Digest`] if `digest` is not of the form `sha256:HEX`.
    pub fn path(&self, digest: &str) -> Result<PathBuf, StoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
        let hex = hex.ok_or_else(|| StoreError::Digest { digest: digest.to_owned() })?;
        Ok(self.root.join("blobs/sha256").join(hex))
    }

    /// Returns the digests and paths of all blobs.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Io`] if the folder of the blobs cannot be read.
    pub fn blobs(&self) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let folder = self.root.join("blobs/sha256");
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|error| StoreError::io("read", &folder, error))?;
        let blob = |entry: fs::DirEntry| {
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            is_digest(&digest).then(|| (digest, entry.path()))
        };
        Ok(entries.into_iter().filter_map(blob).collect())
    }

    /// Reads a small blob (a manifest, a config) into memory and checks its digest.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Missing`] or [`StoreError::Corrupt`], or another error if the file cannot be read.
    pub fn read(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest)?;
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing { digest: digest.to_owned() },
            _ => StoreError::io("read", &path, error),
        })?;
        let actual = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if actual == digest { Ok(bytes) } else { Err(StoreError::Corrupt { digest: digest.to_owned() }) }
    }

    /// Returns the size in bytes of an existing blob.
    pub(crate) fn size(&self, digest: &str) -> Result<u64, StoreError> {
        let path = self.path(digest)?;
        let found = fs::metadata(&path).map_err(|error| StoreError::io("read", &path, error))?;
        Ok(found.len())
    }

    /// Hashes a whole blob and compares the result with its digest.
    ///
    /// # Errors
    ///
    /// Returns an error if `digest` is not a digest or the blob exists and cannot be read.
    pub fn check(&self, digest: &str) -> Result<BlobState, StoreError> {
        let path = self.path(digest)?;
        match crate::digest::file_digest(&path) {
            Ok(hex) if digest.ends_with(&hex) => Ok(BlobState::Good),
            Ok(_) => Ok(BlobState::Corrupt),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BlobState::Missing),
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }

    /// Removes blobs and views that are not in the set that `live` returns (blob digests and model digests). Returns
    /// the number of removed blobs and their size in bytes. Waits until no [`Store::packing`] guard is held.
    ///
    /// # Errors
    ///
    /// Returns the error of `live`, in which case nothing is removed, or an error if a file cannot be removed.
    pub fn collect<E: From<StoreError>>(
        &self,
        live: impl FnOnce() -> Result<HashSet<String>, E>,
    ) -> Result<(usize, u64), E> {
        let _exclusive = self.packing.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let live = live()?;
        let mut removed = (0, 0);
        for folder in ["views", "blobs/sha256"] {
            let folder = self.root.join(folder);
            let entries = fs::read_dir(&folder).map_err(|error| StoreError::io("read", &folder, error))?;
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if live.contains(&format!("sha256:{name}")) {
                    continue;
                }
                let path = entry.path();
                let Ok(metadata) = entry.metadata() else { continue };
                let gone = if metadata.is_dir() {
                    self.discard(&path)
                } else {
                    removed = (removed.0 + 1, removed.1 + metadata.len());
                    fs::remove_file(&path)
                };
                gone.map_err(|error| StoreError::io("remove", &path, error))?;
                crash_point("something was collected");
            }
        }
        Ok(removed)
    }

    /// Returns the view of a model: a folder with the files an engine opens, as hard links to blobs, or copies if
    /// links cannot be made. `files` are paths in the view and blob digests. The view is created atomically if it
    /// does not exist.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Missing`] if a blob does not exist, or another error if the view cannot be written.
    pub fn view(&self, digest: &str, files: &[(PathBuf, String)]) -> Result<PathBuf, StoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
        let hex = hex.ok_or_else(|| StoreError::Digest { digest: digest.to_owned() })?;
        let target = self.root.join("views").join(hex);
        if target.is_dir() {
            return Ok(target);
        }
        let scratch = tempfile::tempdir_in(self.scratch_folder())
            .map_err(|error| StoreError::io("write", &self.scratch_folder(), error))?;
        let mut folders = BTreeSet::from([scratch.path().to_owned()]);
        for (name, blob) in files {
            let (from, to) = (self.path(blob)?, scratch.path().join(name));
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::Missing { digest: blob.clone() },
                _ => StoreError::io("write", &to, error),
            };
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(failed)?;
                let made = folder.ancestors().take_while(|above| above.starts_with(scratch.path()));
                folders.extend(made.map(Path::to_owned));
            }
            link_or_copy(&from, &to).map_err(failed)?;
        }
        // Synced before the rename: a view that has its name is complete even after a power cut.
        for folder in &folders {
            sync_folder(folder).map_err(|error| StoreError::io("write", folder, error))?;
        }
        let whole = scratch.keep();
        crash_point("a view is made");
        match fs::rename(&whole, &target) {
            Ok(()) => crash_point("a view is in place"),
            // Another thread or process has created the view in the meantime.
            Err(_) if target.is_dir() => drop(fs::remove_dir_all(&whole)),
            Err(error) => return Err(StoreError::io("write", &target, error)),
        }
        Ok(target)
    }

    /// Returns the path of an existing view.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Missing`] if the view does not exist.
    pub fn existing_view(&self, digest: &str) -> Result<PathBuf, StoreError> {
        let path = self.root.join("views").join(digest.strip_prefix("sha256:").unwrap_or_default());
        let missing = || StoreError::Missing { digest: digest.to_owned() };
        path.is_dir().then_some(path).ok_or_else(missing)
    }

    /// Removes a view, so that the next [`Self::view`] creates it again.
    pub fn forget_view(&self, digest: &str) {
        if let Some(hex) = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex)) {
            // Best effort: the view may not exist.
            let _ = self.discard(&self.root.join("views").join(hex));
        }
    }

    /// Removes a folder atomically, even if power is cut: renames it into the scratch folder first.
    fn discard(&self, folder: &Path) -> io::Result<()> {
        let scratch = tempfile::tempdir_in(self.scratch_folder())?;
        fs::rename(folder, scratch.path().join("gone"))?;
        sync_folder_of(folder)?;
        crash_point("a folder is on its way out");
        Ok(())
    }

    /// Writes a file atomically and syncs it.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("write", path, error);
        let mut file = self.scratch()?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        crash_point("a file is rewritten");
        file.persist(path).map_err(|error| failed(error.error))?;
        sync_folder_of(path).map_err(failed)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a new folder for the time being.
    pub(crate) fn scratch_for(&self, what: &str) -> Result<tempfile::TempDir, StoreError> {
        let folder = self.scratch_folder();
        let made = tempfile::Builder::new().prefix(what).tempdir_in(&folder);
        made.map_err(|error| StoreError::io("write", &folder, error))
    }

    fn scratch_folder(&self) -> PathBuf {
        self.root.join("ingest")
    }

    fn scratch(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        tempfile::NamedTempFile::new_in(self.scratch_folder())
            .map_err(|error| StoreError::io("write", &self.scratch_folder(), error))
    }

    fn keep(&self, file: tempfile::NamedTempFile, blob: Blob) -> Result<Blob, StoreError> {
        let target = self.path(&blob.digest)?;
        let failed = |error| StoreError::io("write", &target, error);
        // An existing blob is hashed, so that a damaged one is replaced.
        if self.check(&blob.digest)? == BlobState::Good {
            // Its writer may have been killed, or have failed, before the name was synced.
            sync_folder_of(&target).map_err(failed)?;
            return Ok(blob);
        }
        file.as_file().set_permissions(fs::Permissions::from_mode(0o400)).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        crash_point("a blob is written");
        file.persist(&target).map_err(|error| failed(error.error))?;
        sync_folder_of(&target).map_err(failed)?;
        crash_point("a blob is in place");
        Ok(blob)
    }
}

/// A writer that counts and hashes the bytes it passes on.
#[derive(Debug)]
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    /// Keeps the count and hash so far, and writes to `inner` from now on.
    pub(crate) fn over<V>(self, inner: V) -> Hashing<V> {
        Hashing { inner, hasher: self.hasher, size: self.size }
    }

    /// Returns the number of bytes written so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(self) -> Blob {
        self.into_parts().1
    }

    /// Returns the inner writer, and the blob of the bytes written to it.
    pub(crate) fn into_parts(self) -> (W, Blob) {
        let digest = format!("sha256:{}", hex(&self.hasher.finalize()));
        (self.inner, Blob { digest, size: self.size })
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_sparse(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    for block in bytes.chunks(BLOCK) {
        if block.iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Current(block.len() as i64))?;
        } else {
            file.write_all(block)?;
        }
    }
    Ok(())
}

/// Makes a hard link to a file, or a copy if links cannot be made.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // Two files have the same name: copying would write into the first one's blob.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        Err(_) => fs::copy(from, to).and_then(|_| File::open(to)?.sync_all()),
        linked => linked,
    }
}

/// Returns whether a text has the form of a digest: `sha256:HEX`.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_hex)
}

pub(crate) fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    #[test]
    fn a_file_becomes_a_blob_under_its_digest_and_zeros_take_no_room() {
        let (folder, store) = store();
        let path = folder.path().join("weights");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        let blob = store.put_file(&path, &|_| ()).unwrap();
        assert_eq!(blob.size, 64 << 20);
        let kept = fs::metadata(store.path(&blob.digest).unwrap()).unwrap();
        assert!(kept.len() == blob.size && kept.blocks() * 512 < 1 << 20, "{} blocks", kept.blocks());
        assert_eq!(store.check(&blob.digest).unwrap(), BlobState::Good);
        assert_eq!(store.put_file(&path, &|_| ()).unwrap(), blob, "again is the same");
    }

    #[test]
    fn a_flipped_bit_and_a_missing_blob_are_found() {
        let (_folder, store) = store();
        let blob = store.put_bytes(b"model").unwrap();
        assert_eq!(store.read(&blob.digest).unwrap(), b"model");
        let path = store.path(&blob.digest).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(store.check(&blob.digest).unwrap(), BlobState::Missing);
        fs::write(&path, b"modem").unwrap();
        assert_eq!(store.check(&blob.digest).unwrap(), BlobState::Corrupt);
        assert!(matches!(store.read(&blob.digest), Err(StoreError::Corrupt { .. })));
        assert!(store.path("sha256:../../etc/passwd").is_err());
    }

    #[test]
    fn collecting_keeps_what_is_live_and_opening_removes_what_is_half_written() {
        let (folder, store) = store();
        let (keep, drop) = (store.put_bytes(b"keep").unwrap(), store.put_bytes(b"drop").unwrap());
        let view = store.view(&keep.digest, &[("a/model".into(), keep.digest.clone())]).unwrap();
        assert_eq!(fs::read(view.join("a/model")).unwrap(), b"keep");
        let live = HashSet::from([keep.digest.clone()]);
        assert_eq!(store.collect(|| Ok::<_, StoreError>(live.clone())).unwrap(), (1, 4));
        assert!(view.exists() && store.check(&drop.digest).unwrap() == BlobState::Missing);
        fs::write(folder.path().join("store/ingest/half"), "x").unwrap();
        Store::open(&folder.path().join("store")).unwrap();
        assert!(!folder.path().join("store/ingest/half").exists());
    }
}
