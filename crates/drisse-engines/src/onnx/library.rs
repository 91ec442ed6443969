//! Which `libonnxruntime.so` is loaded, and that it is one, before anything of it runs.
#![expect(unsafe_code, reason = "a shared library is asked for its version, and the environment is set")]

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The version that is fetched and tested. Others from 1.17 on work when they are named.
pub const PINNED: &str = "1.32.0";

/// The lowest minor version whose C API has all that is called (`api-17` of `ort`).
const LOWEST_MINOR: u32 = 17;

/// Why a library is not used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// There is no such file.
    #[error("there is no ONNX Runtime library at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others could have put something else there.
    #[error("the ONNX Runtime library {} is not used: {why}", path.display())]
    Untrusted {
        /// Which file.
        path: PathBuf,
        /// Who could change it.
        why: String,
    },
    /// It is no ONNX Runtime, or one that is too old.
    #[error("the library {} cannot be used as ONNX Runtime: {why}", path.display())]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Has ONNX Runtime keep no number of this machine and no list of events in the user's cache folder, as its builds
/// since 1.32 do from the moment they are loaded. Call it before anything else: where there are threads already, it
/// does nothing.
#[expect(clippy::disallowed_methods, reason = "no other thread shares the environment yet")]
pub fn disable_telemetry() {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    let is_alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if is_alone && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { std::env::set_var(VARIABLE, "1") };
    }
}

/// Where fetched libraries are kept: `drisse` in the user's cache folder.
pub fn cache_folder() -> PathBuf {
    let xdg = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    xdg.or_else(home).unwrap_or_else(|| PathBuf::from("/var/cache")).join("drisse")
}

/// The library to use without fetching one: `named` (an error when it cannot be used), one beside
/// the binary, or the one in `cache`.
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

/// The folder below `cache` where the pinned version is kept.
pub(super) fn cached(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join(PINNED)
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join("libonnxruntime.so");
    let versioned = folder.join(format!("libonnxruntime.so.{PINNED}"));
    [plain, versioned].into_iter().find(|path| path.is_file())
}

/// A library is code: only root and this user may have written it, or the folder it is in.
fn trusted(path: &Path) -> Result<(), LibraryError> {
    let untrusted = |why: String| LibraryError::Untrusted { path: path.to_owned(), why };
    let path = path.canonicalize().map_err(|error| untrusted(error.to_string()))?;
    let me = rustix::process::geteuid().as_raw();
    for place in [Some(&*path), path.parent()].into_iter().flatten() {
        let metadata = place.metadata().map_err(|error| untrusted(error.to_string()))?;
        if metadata.uid() != 0 && metadata.uid() != me {
            return Err(untrusted(format!("{} belongs to another user", place.display())));
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(untrusted(format!("{} can be written by every user", place.display())));
        }
    }
    Ok(())
}

/// The version of the library at `path`. What `ort` would panic over is an error here.
pub fn probe(path: &Path) -> Result<String, LibraryError> {
    let refused = |why: String| LibraryError::Refused { path: path.to_owned(), why };
    // SAFETY: loading runs the library's initialisers; `find` let only root and this user write it.
    // It stays loaded: ONNX Runtime does not survive being unloaded.
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
        _ => Err(refused(format!("its version is {version}, and 1.{LOWEST_MINOR} is the oldest that works"))),
    }
}
