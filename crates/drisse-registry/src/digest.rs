//! The digest that identifies a model. The same files have the same digest everywhere.

use crate::InspectError;
use crate::blobs::hex;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

/// Computes the digest of a model from its files: SHA-256 of the sorted `HEX  PATH` lines, as `sha256:HEX`.
/// `sha256sum FILES | sort`, run in `folder`, prints the same lines.
///
/// `files` are paths relative to `folder`.
///
/// # Errors
///
/// Returns [`InspectError::Io`] if a file cannot be read or is not a regular file.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("model.onnx"), "weights")?;
/// let digest = drisse_registry::digest(folder.path(), &["model.onnx".into()])?;
/// assert!(digest.starts_with("sha256:"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn digest(folder: &Path, files: &[PathBuf]) -> Result<String, InspectError> {
    let mut lines = Vec::with_capacity(files.len());
    for file in files {
        let path = folder.join(file);
        let hex = file_digest(&path).map_err(|source| InspectError::Io { path: path.clone(), source })?;
        lines.push(format!("{hex}  {}\n", file.display()));
    }
    lines.sort_unstable();
    Ok(format!("sha256:{}", hex(&Sha256::digest(lines.concat()))))
}

/// Opens a regular file without blocking. A pipe (which could block forever) or a device (which could never end)
/// that has replaced the file since it was checked is refused.
pub(crate) fn open(path: &Path) -> std::io::Result<std::fs::File> {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("not a regular file")) }
}

pub(crate) fn file_digest(path: &Path) -> std::io::Result<String> {
    digest_of_file(open(path)?)
}

/// Returns the SHA-256 of the rest of a file (hexadecimal).
///
/// # Errors
///
/// Returns the system's error if the file cannot be read.
pub fn digest_of_file(mut file: std::fs::File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_took_a_files_place_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("w");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        let error = digest(folder.path(), &["w".into()]).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("not a regular file"));
    }

    #[test]
    fn is_that_of_sha256sums_lines() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b"), "b").unwrap();
        std::fs::write(folder.path().join("a"), "").unwrap();
        let digest = digest(folder.path(), &["b".into(), "a".into()]).unwrap();
        // printf 'HEX  a\nHEX  b\n' | sort | sha256sum, with the SHA-256 of each file.
        let lines = "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d  b\n\
                     e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n";
        assert_eq!(digest, format!("sha256:{}", hex(&Sha256::digest(lines))));
    }
}
