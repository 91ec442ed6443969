//! The store: an OCI image layout whose blobs are written whole or not at all.
//!
//! Layout: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>.

use crate::StoreError;
use crate::durable::{make_folder, sync_folder, sync_folder_of};
use drisse_core::step;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard};

/// Zeros in blocks of this size are not written: sparse files stay sparse.
const BLOCK: usize = 64 << 10;

/// A folder of blobs, each under the digest of its bytes.
#[derive(Clone, Debug)]
pub struct Store {
    root: Arc<PathBuf>,
    /// Writers read it, the garbage collector writes it: what is being packed is not collected.
    packing: Arc<RwLock<()>>,
}

/// A blob in the store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Blob {
    /// `sha256:HEX`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// What a blob's bytes say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobState {
    /// They have the digest they are named by.
    Good,
    /// They have another one.
    Corrupt,
    /// There are none.
    Missing,
}

impl Blob {
    /// What these bytes would be.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { digest: format!("sha256:{}", hex(&Sha256::digest(bytes))), size: bytes.len() as u64 }
    }
}

impl Store {
    /// Opens the store at `root`, and makes it where there is none. What an earlier run left half
    /// written is removed.
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

    /// The store at `root` as it is: nothing is made or removed.
    pub fn existing(root: &Path) -> Self {
        Self { root: Arc::new(root.to_owned()), packing: Arc::default() }
    }

    /// To be held from the first blob of a package until something refers to it.
    pub fn packing(&self) -> RwLockReadGuard<'_, ()> {
        self.packing.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Copies a file in, telling `progress` how many bytes went by.
    pub fn put_file(&self, path: &Path, progress: &dyn Fn(u64)) -> Result<Blob, StoreError> {
        let read = |error| StoreError::io("read", path, error);
        let mut source = crate::digest::open(path).map_err(read)?;
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

    /// Writes bytes as a blob.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Blob, StoreError> {
        self.put(|out| out.write_all(bytes))
    }

    /// Writes a blob of what `write` writes.
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

    /// Where a blob's bytes lie.
    pub fn path(&self, digest: &str) -> Result<PathBuf, StoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
        let hex = hex.ok_or_else(|| StoreError::Digest { digest: digest.to_owned() })?;
        Ok(self.root.join("blobs/sha256").join(hex))
    }

    /// A small blob's bytes (manifests, configs), checked against its digest.
    pub fn read(&self, digest: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest)?;
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing { digest: digest.to_owned() },
            _ => StoreError::io("read", &path, error),
        })?;
        let is = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if is == digest { Ok(bytes) } else { Err(StoreError::Corrupt { digest: digest.to_owned() }) }
    }

    /// How many bytes a blob has that is there.
    pub(crate) fn size(&self, digest: &str) -> Result<u64, StoreError> {
        let path = self.path(digest)?;
        let found = fs::metadata(&path).map_err(|error| StoreError::io("read", &path, error))?;
        Ok(found.len())
    }

    /// Reads a whole blob and compares.
    pub fn check(&self, digest: &str) -> Result<BlobState, StoreError> {
        let path = self.path(digest)?;
        match crate::digest::file_digest(&path) {
            Ok(hex) if digest.ends_with(&hex) => Ok(BlobState::Good),
            Ok(_) => Ok(BlobState::Corrupt),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BlobState::Missing),
            Err(error) => Err(StoreError::io("read", &path, error)),
        }
    }

    /// Removes blobs and views that `live` does not name (blob digests and model digests); how many
    /// there were and their bytes. Waits for what is being packed.
    pub fn collect<E: From<StoreError>>(
        &self,
        live: impl FnOnce() -> Result<HashSet<String>, E>,
    ) -> Result<(usize, u64), E> {
        let _alone = self.packing.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        // What cannot be listed is not collected.
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
                step("something was collected");
            }
        }
        Ok(removed)
    }

    /// A folder with files of these names, hard links to blobs (copies where links cannot be made):
    /// what engines open. Made whole or not at all.
    pub fn view(&self, digest: &str, files: &[(PathBuf, String)]) -> Result<PathBuf, StoreError> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex));
        let hex = hex.ok_or_else(|| StoreError::Digest { digest: digest.to_owned() })?;
        let place = self.root.join("views").join(hex);
        if place.is_dir() {
            return Ok(place);
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
            match fs::hard_link(&from, &to) {
                Ok(()) => {}
                // Two files of one name: copying would write into the first one's blob.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(failed(error)),
                Err(_) => {
                    fs::copy(&from, &to).and_then(|_| File::open(&to)?.sync_all()).map_err(failed)?;
                }
            }
        }
        // After a power cut a folder of this name is whole.
        for folder in &folders {
            sync_folder(folder).map_err(|error| StoreError::io("write", folder, error))?;
        }
        let whole = scratch.keep();
        step("a view is made");
        match fs::rename(&whole, &place) {
            Ok(()) => step("a view is in place"),
            // Somebody else was faster.
            Err(_) if place.is_dir() => drop(fs::remove_dir_all(&whole)),
            Err(error) => return Err(StoreError::io("write", &place, error)),
        }
        Ok(place)
    }

    /// Where a view is, if it was made.
    pub fn existing_view(&self, digest: &str) -> Result<PathBuf, StoreError> {
        let place = self.root.join("views").join(digest.strip_prefix("sha256:").unwrap_or_default());
        let missing = || StoreError::Missing { digest: digest.to_owned() };
        place.is_dir().then_some(place).ok_or_else(missing)
    }

    /// Removes a view, so that the next [`Self::view`] makes it anew.
    pub fn forget_view(&self, digest: &str) {
        if let Some(hex) = digest.strip_prefix("sha256:").filter(|hex| is_hex(hex)) {
            // Gone already is what was wanted.
            let _ = self.discard(&self.root.join("views").join(hex));
        }
    }

    /// Removes a folder in one step: there is no moment at which it is half there, and none after a power
    /// cut either.
    fn discard(&self, folder: &Path) -> io::Result<()> {
        let scratch = tempfile::tempdir_in(self.scratch_folder())?;
        fs::rename(folder, scratch.path().join("gone"))?;
        sync_folder_of(folder)?;
        step("a folder is on its way out");
        Ok(())
    }

    /// Puts a whole file in another's place.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("write", path, error);
        let mut file = self.scratch()?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        step("a file is written anew");
        file.persist(path).map_err(|error| failed(error.error))?;
        sync_folder_of(path).map_err(failed)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn scratch_folder(&self) -> PathBuf {
        self.root.join("ingest")
    }

    fn scratch(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        tempfile::NamedTempFile::new_in(self.scratch_folder())
            .map_err(|error| StoreError::io("write", &self.scratch_folder(), error))
    }

    fn keep(&self, file: tempfile::NamedTempFile, blob: Blob) -> Result<Blob, StoreError> {
        let place = self.path(&blob.digest)?;
        let failed = |error| StoreError::io("write", &place, error);
        // What is there is read: a blob that was damaged is replaced.
        if self.check(&blob.digest)? == BlobState::Good {
            // Who wrote it may have been killed, or told of an error, before its name was on disk.
            sync_folder_of(&place).map_err(failed)?;
            return Ok(blob);
        }
        file.as_file().set_permissions(fs::Permissions::from_mode(0o400)).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        step("a blob is written");
        file.persist(&place).map_err(|error| failed(error.error))?;
        sync_folder_of(&place).map_err(failed)?;
        step("a blob is in place");
        Ok(blob)
    }
}

/// A writer that counts and hashes what goes through it.
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    /// Goes on with another writer.
    pub(crate) fn over<V>(self, inner: V) -> Hashing<V> {
        Hashing { inner, hasher: self.hasher, size: self.size }
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(self) -> Blob {
        self.into_parts().1
    }

    /// What it wrote to, and what went there.
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

/// Whether a text is the digest of something: `sha256:HEX`.
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
    fn a_flipped_bit_and_a_missing_blob_are_told() {
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
