//! Fetches ONNX Runtime: pip downloads the wheel from the Python package index, and its digest is verified.

use super::library::{PINNED, cached};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Architecture, platform tag and SHA-256 of each wheel, as the index publishes them.
const WHEELS: [(&str, &str, &str); 2] = [
    ("x86_64", "manylinux_2_28_x86_64", "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d"),
    ("aarch64", "manylinux_2_28_aarch64", "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c"),
];

/// The commands that can be pip; the first that exists is used.
const PIPS: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["uv", "pip"]];

/// Why ONNX Runtime could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No wheel is pinned for this processor architecture.
    #[error("no ONNX Runtime is pinned for {0} processors")]
    Architecture(&'static str),
    /// No pip is installed.
    #[error("cannot download ONNX Runtime {PINNED}: neither python3 with pip nor pip is installed")]
    NoPip,
    /// pip failed, with this message.
    #[error("cannot download ONNX Runtime {PINNED}: pip failed: {0}")]
    Pip(String),
    /// The downloaded wheel has another digest.
    #[error("the ONNX Runtime wheel has SHA-256 {got}, not the pinned {wanted}; it was not used")]
    Digest {
        /// The SHA-256 of the downloaded wheel.
        got: String,
        /// The pinned SHA-256.
        wanted: &'static str,
    },
    /// The wheel cannot be unpacked.
    #[error("cannot unpack the ONNX Runtime wheel: {0}")]
    Wheel(String),
    /// The cache cannot be written.
    #[error("cannot write {}", path.display())]
    Io {
        /// The folder of the pinned version in the cache.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
}

/// Downloads the pinned version into `cache` and returns the library's path. pip shows its progress on stderr. Blocks;
/// if several processes call it at the same time, one downloads and the others wait.
///
/// # Errors
/// Returns an error if no wheel is pinned for this machine, pip is missing or fails, the wheel has another digest, or
/// the cache cannot be written. A failed download leaves no library, and the next call starts again.
pub fn fetch(cache: &Path) -> Result<PathBuf, FetchError> {
    let (_, platform, wanted) = *WHEELS
        .iter()
        .find(|(architecture, ..)| *architecture == std::env::consts::ARCH)
        .ok_or(FetchError::Architecture(std::env::consts::ARCH))?;
    let folder = cached(cache);
    let io = |source| FetchError::Io { path: folder.clone(), source };
    // No other user may put a library into this folder.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io)?;
    let name = format!("libonnxruntime.so.{PINNED}");
    let path = folder.join(&name);
    // The lock is held until this function returns or the process ends.
    let lock = std::fs::File::create(folder.join("lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    if path.is_file() {
        return Ok(path);
    }
    remove_interrupted(&folder).map_err(io)?;
    let scratch = tempfile::tempdir_in(&folder).map_err(io)?;
    let wheel = download(scratch.path(), platform)?;
    let got = sha256(&wheel).map_err(io)?;
    if got != wanted {
        return Err(FetchError::Digest { got, wanted });
    }
    let library = unpack(&wheel, &name, &folder)?;
    library.persist(&path).map_err(|error| io(error.error))?;
    std::fs::File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    Ok(path)
}

/// Removes the files of interrupted downloads.
fn remove_interrupted(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            let folder = entry.file_type()?.is_dir();
            let remove = if folder { std::fs::remove_dir_all } else { std::fs::remove_file };
            remove(entry.path())?;
        }
    }
    Ok(())
}

fn download(folder: &Path, platform: &str) -> Result<PathBuf, FetchError> {
    let mut failure = FetchError::NoPip;
    for pip in PIPS {
        let mut command = Command::new(pip[0]);
        command.args(&pip[1..]).args([
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            "3.11",
        ]);
        command.args(["--platform", platform, "--platform", &platform.replace("2_28", "2_27")]);
        command
            .args(["--disable-pip-version-check", "--dest"])
            .arg(folder)
            .arg(format!("onnxruntime=={PINNED}"));
        // stdout is for data, so pip shows its progress on stderr.
        command.stdin(Stdio::null()).stdout(std::io::stderr()).stderr(Stdio::piped());
        let output = match command.output() {
            Ok(output) => output,
            Err(_) => continue,
        };
        if output.status.success() {
            let mut files =
                std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let wheel = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
            return wheel.ok_or_else(|| FetchError::Pip("no wheel was downloaded".to_owned()));
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no error message");
        if !stderr.contains("No module named pip") {
            failure = FetchError::Pip(last.trim().to_owned());
            break;
        }
    }
    Err(failure)
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            read => hasher.update(&chunk[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unpack(wheel: &Path, name: &str, folder: &Path) -> Result<tempfile::NamedTempFile, FetchError> {
    let bad = |error: &dyn std::fmt::Display| FetchError::Wheel(error.to_string());
    let io = |source| FetchError::Io { path: folder.to_owned(), source };
    let file = std::fs::File::open(wheel).map_err(io)?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| bad(&error))?;
    let mut entry = archive.by_name(&format!("onnxruntime/capi/{name}")).map_err(|error| bad(&error))?;
    let mut library = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    std::io::copy(&mut entry, &mut library).map_err(io)?;
    library.flush().and_then(|()| library.as_file().sync_all()).map_err(io)?;
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_interrupted_downloads_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".tmpAb12")).unwrap();
        std::fs::write(folder.path().join(".tmpAb12/part.whl"), "half").unwrap();
        std::fs::write(folder.path().join(".tmpCd34"), "half a library").unwrap();
        std::fs::write(folder.path().join("libonnxruntime.so.1"), "").unwrap();
        remove_interrupted(folder.path()).unwrap();
        let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["libonnxruntime.so.1"]);
    }
}
