//! Python virtual environments for tests and benchmarks, one per list of requirements, created once.

use crate::setup::{apt_install, once};
use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The lists of requirements of the clients' tests, in `tests/conformance`.
pub(crate) const CLIENTS: [&str; 3] =
    ["requirements-triton.txt", "requirements-kserve.txt", "requirements-tfs.txt"];

/// Returns the interpreter of the environment with everything in `tests/conformance/requirements.txt`.
pub(crate) fn environment() -> Result<PathBuf> {
    environment_of("requirements.txt")
}

/// The same for another list in `tests/conformance`, of packages that conflict with the others.
pub(crate) fn environment_of(list: &str) -> Result<PathBuf> {
    environment_at(&format!("tests/conformance/{list}"))
}

/// The same for any list in the repository.
pub(crate) fn environment_at(list: &str) -> Result<PathBuf> {
    once(list, || create(list))
}

fn create(list: &str) -> Result<PathBuf> {
    let text = std::fs::read_to_string(crate::root().join(list))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let folder = crate::cache_folder().join(format!("test-python-{:016x}", hasher.finish()));
    let python = folder.join("bin/python");
    // Written last, so that an environment whose creation was interrupted is created again.
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    println!("creating {} (once)", folder.display());
    // Triton's Python backend contains its own interpreter, which works with the system's library but not a newer one.
    let system = list.ends_with("requirements-pytriton.txt") && Path::new("/usr/bin/python3").exists();
    let interpreter = if system { "/usr/bin/python3" } else { "python3" };
    let create = || Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(&folder).status();
    if !create().context("python3 is needed")?.success() {
        // On Debian, venv is a separate package.
        ensure!(apt_install(&["python3-venv"]) && create()?.success(), "cannot create a Python environment");
    }
    // These packages have many dependencies that no test uses.
    let (alone, others): (Vec<&str>, Vec<&str>) = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .partition(|line| ["silero", "rapidocr", "min-tfs"].iter().any(|name| line.starts_with(name)));
    for (flags, packages) in [(&["-q"][..], others), (&["-q", "--no-deps"], alone)] {
        if packages.is_empty() {
            continue;
        }
        let installed =
            Command::new(&python).args(["-m", "pip", "install"]).args(flags).args(packages).status()?;
        ensure!(installed.success(), "pip cannot install the packages of {list}");
    }
    std::fs::write(complete, "")?;
    Ok(python)
}
