//! Finds `libonnxruntime.so`, and checks that it is ONNX Runtime before any other code of it runs.
#![expect(unsafe_code, reason = "a shared library is asked for its version, and the environment is set")]

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The version that is fetched and tested. Other versions from 1.17 work if the user names their library.
pub const PINNED: &str = "1.32.0";

/// The lowest minor version whose C API has every function that Drisse calls (`api-17` of `ort`).
const LOWEST_MINOR: u32 = 17;

/// Why a library is not used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The file does not exist.
    #[error("there is no ONNX Runtime library at {}", path.display())]
    Missing {
        /// The path of the file or folder.
        path: PathBuf,
    },
    /// Another user could have replaced the file.
    #[error("the ONNX Runtime library {} is not used: {why}", path.display())]
    Untrusted {
        /// The path of the library.
        path: PathBuf,
        /// Who can change the library.
        why: String,
    },
    /// The file is not ONNX Runtime, is too old or cannot be initialized.
    #[error("the library {} cannot be used as ONNX Runtime: {why}", path.display())]
    Refused {
        /// The path of the library.
        path: PathBuf,
        /// The reason.
        why: String,
    },
}

/// Disables ONNX Runtime's telemetry: since 1.32, its builds store a machine id and a list of events in the user's
/// cache folder as soon as they are loaded. Call it first: it does nothing once the process has other threads.
#[expect(clippy::disallowed_methods, reason = "no other thread shares the environment yet")]
pub fn disable_telemetry() {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    if is_alone() && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: this is the only thread, so that no other can read the environment at the same time.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

/// Whether this process has one thread only, so that its environment can be changed.
pub(super) fn is_alone() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Returns the folder for fetched libraries: `drisse` in the user's cache folder.
pub fn cache_folder() -> PathBuf {
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    xdg.or_else(home).unwrap_or_else(|| PathBuf::from("/var/cache")).join("drisse")
}

/// Finds the library to use: `named` (a file or a folder), else one beside the binary, else the fetched one in `cache`.
/// Returns `None` if there is none, so that the caller can [`fetch`](super::fetch) it.
///
/// # Errors
/// [`LibraryError::Missing`] if `named` does not exist, [`LibraryError::Untrusted`] if a user other than this one and
/// root can change the library.
pub fn find(named: Option<&Path>, cache: &Path) -> Result<Option<PathBuf>, LibraryError> {
    if let Some(named) = named {
        let path = if named.is_dir() { in_folder(named) } else { Some(named.to_owned()) };
        let path = path.filter(|path| path.is_file());
        let path = path.ok_or_else(|| LibraryError::Missing { path: named.to_owned() })?;
        trusted(&path)?;
        return Ok(Some(path));
    }
    let beside = std::env::current_exe().ok().and_then(|binary| in_folder(binary.parent()?));
    let found = beside.or_else(|| in_folder(&cached(cache)));
    found.map(|path| trusted(&path).map(|()| path)).transpose()
}

/// Returns the folder of the pinned version in `cache`.
pub(super) fn cached(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join(PINNED)
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join("libonnxruntime.so");
    let versioned = folder.join(format!("libonnxruntime.so.{PINNED}"));
    [plain, versioned].into_iter().find(|path| path.is_file())
}

/// Checks that only root and this user can change the library and its folder, because the library is code.
fn trusted(path: &Path) -> Result<(), LibraryError> {
    let untrusted = |why: String| LibraryError::Untrusted { path: path.to_owned(), why };
    let path = path.canonicalize().map_err(|error| untrusted(error.to_string()))?;
    let me = rustix::process::geteuid().as_raw();
    for path in [Some(&*path), path.parent()].into_iter().flatten() {
        let metadata = path.metadata().map_err(|error| untrusted(error.to_string()))?;
        if metadata.uid() != 0 && metadata.uid() != me {
            return Err(untrusted(format!("{} belongs to another user", path.display())));
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(untrusted(format!("{} can be written by every user", path.display())));
        }
    }
    Ok(())
}

/// Loads the library at `path` and returns its version. The library stays loaded.
///
/// # Errors
/// [`LibraryError::Refused`] if the file is not ONNX Runtime or is too old; `ort` itself would panic.
pub fn probe(path: &Path) -> Result<String, LibraryError> {
    let refused = |why: String| LibraryError::Refused { path: path.to_owned(), why };
    // SAFETY: loading runs the library's initializers; `find` has checked that only root and this user can write it.
    // It stays loaded, because ONNX Runtime crashes when it is unloaded.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| refused(error.to_string()))?;
    let library = std::mem::ManuallyDrop::new(library);
    type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: this is the symbol's type in onnxruntime_c_api.h, in every version.
    let base = unsafe { library.get::<GetApiBase>(b"OrtGetApiBase") };
    let base = base.map_err(|_| refused("it does not export `OrtGetApiBase`".to_owned()))?;
    // SAFETY: the function takes nothing and returns a table that lives as long as the library.
    let base = unsafe { base().as_ref() }.ok_or_else(|| refused("it has no API".to_owned()))?;
    // SAFETY: the table's function returns a string that lives as long as the library.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy().into_owned();
    let minor: Option<u32> = version.strip_prefix("1.").and_then(|rest| rest.split('.').next()?.parse().ok());
    match minor {
        Some(minor) if minor >= LOWEST_MINOR => Ok(version),
        _ => Err(refused(format!("its version is {version}, but at least 1.{LOWEST_MINOR} is required"))),
    }
}
