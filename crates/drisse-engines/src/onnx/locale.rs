//! The locale that ONNX Runtime's text operators need.
#![expect(unsafe_code, reason = "the C library is asked for a locale, and the environment is set")]

use std::ffi::CStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The locale that `StringNormalizer` asks the C library for when it changes the case of text, as scikit-learn's text
/// models do by default. A model is not loaded without it.
const NEEDED: &CStr = c"en_US.UTF-8";

/// Where C libraries keep compiled locales.
const SYSTEM: &str = "/usr/lib/locale";

/// Whether ONNX Runtime finds the locale `en_US.UTF-8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocaleState {
    /// The machine has it.
    Installed,
    /// The machine has only `C.UTF-8`, which takes its place: both change the case of all of Unicode in the same way.
    Replaced,
    /// The machine has neither.
    Missing,
}

/// Returns whether this machine has the locale.
pub fn locale() -> LocaleState {
    if is_installed() {
        return LocaleState::Installed;
    }
    if plain_locale().is_some() { LocaleState::Replaced } else { LocaleState::Missing }
}

/// Makes ONNX Runtime find the locale where only `C.UTF-8` is installed: under the missing name, through a link in
/// `cache`. Call it early: it does nothing once the process has other threads.
#[expect(clippy::disallowed_methods, reason = "no other thread shares the environment yet")]
pub fn provide_locale(cache: &Path) {
    if is_installed() || !super::library::is_alone() {
        return;
    }
    let Some(plain) = plain_locale() else { return };
    let folder = cache.join("locale");
    let link = folder.join("en_US.UTF-8");
    let made = std::fs::create_dir_all(&folder).and_then(|()| match link.read_link() {
        Ok(target) if target == plain => Ok(()),
        _ => {
            // Renamed into its place: another process may make it at the same time.
            let new = folder.join(format!("new-{}", std::process::id()));
            symlink(&plain, &new).and_then(|()| std::fs::rename(&new, &link))
        }
    });
    if made.is_err() {
        return;
    }
    let others = std::env::var_os("LOCPATH").map(PathBuf::from);
    let Ok(path) = std::env::join_paths(others.into_iter().chain([folder])) else { return };
    // SAFETY: this is the only thread, so that no other can read the environment at the same time.
    unsafe { std::env::set_var("LOCPATH", path) };
}

/// Returns the folder of the locale `C.UTF-8`, which nearly every machine with glibc has.
fn plain_locale() -> Option<PathBuf> {
    ["C.utf8", "C.UTF-8"].map(|name| Path::new(SYSTEM).join(name)).into_iter().find(|path| path.is_dir())
}

fn is_installed() -> bool {
    // SAFETY: the name ends with NUL, and a null pointer as the base asks for a new locale, which is freed at once.
    unsafe {
        let locale = libc::newlocale(libc::LC_ALL_MASK, NEEDED.as_ptr(), std::ptr::null_mut());
        if !locale.is_null() {
            libc::freelocale(locale);
        }
        !locale.is_null()
    }
}
