//! The keys of clients: read from a file that may change, kept only as digests.

use arc_swap::ArcSwap;
use drisse_net::{KeyDigests, hex};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest keys file, in bytes: over a thousand keys.
const MAX_FILE: u64 = 64 << 10;

/// The valid keys. A changed file replaces them; an unreadable or invalid file does not.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    set: ArcSwap<KeySet>,
    /// Held while the file is read again, so that old content never replaces newer content.
    reading: Mutex<()>,
}

#[derive(Debug)]
struct KeySet {
    keys: KeyDigests,
    generation: u64,
    /// The digest of the file, so that its writer can see that it is in use.
    file: [u8; 32],
}

/// Why a keys file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read keys file {}", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file has no key, or an invalid line.
    #[error("keys file {}: {why}", path.display())]
    Invalid {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong. The line itself is never shown.
        why: String,
    },
}

impl Keys {
    /// Reads the keys at `path`: one per line, plain or as `sha256:HEX`; `#` starts a comment.
    ///
    /// # Errors
    /// [`KeysError`] if the file cannot be read, has no key or has an invalid line.
    pub fn open(path: &Path) -> Result<Self, KeysError> {
        let set = read(path, 1)?;
        Ok(Self { path: path.to_owned(), set: ArcSwap::from_pointee(set), reading: Mutex::default() })
    }

    /// Reads the file again and returns whether the keys changed. Blocks on the disk.
    pub(crate) fn reload(&self) -> Result<bool, KeysError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.set.load();
        let new = read(&self.path, current.generation + 1)?;
        let changed = new.file != current.file;
        if changed {
            self.set.store(Arc::new(new));
        }
        Ok(changed)
    }

    /// Returns whether an `authorization` header has one of the keys.
    pub(crate) fn accept(&self, authorization: Option<&[u8]>) -> bool {
        self.set.load().keys.accept(authorization)
    }

    /// Returns the generation of the keys, from 1, and the digest of their file.
    pub(crate) fn generation(&self) -> (u64, String) {
        let set = self.set.load();
        (set.generation, hex(&set.file))
    }
}

fn read(path: &Path, generation: u64) -> Result<KeySet, KeysError> {
    let io = |source| KeysError::Io { path: path.to_owned(), source };
    let invalid = |why: String| KeysError::Invalid { path: path.to_owned(), why };
    if std::fs::metadata(path).map_err(io)?.len() > MAX_FILE {
        return Err(invalid(format!("it has over {MAX_FILE} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let mut keys = KeyDigests::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        keys.add(line).ok_or_else(|| invalid(format!("line {number} is not a SHA-256 digest in hex")))?;
    }
    if keys.is_empty() {
        return Err(invalid("it has no key".to_owned()));
    }
    Ok(KeySet { keys, generation, file: Sha256::digest(&text).into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn a_bad_file_leaves_the_keys_and_never_shows_a_line() {
        let file = file("first\n");
        let keys = Keys::open(file.path()).unwrap();
        for bad in ["", "# none\n", "sha256:secret\n"] {
            std::fs::write(file.path(), bad).unwrap();
            let error = keys.reload().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(keys.accept(Some(b"Bearer first")));
        std::fs::write(file.path(), "other\n").unwrap();
        assert!(keys.reload().unwrap());
        assert!(!keys.accept(Some(b"Bearer first")) && keys.accept(Some(b"Bearer other")));
        assert_eq!(keys.generation().0, 2);
    }
}
