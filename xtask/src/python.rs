//! A virtual environment with what the Python side needs, made once per list of requirements.

use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter of an environment that has everything in `tests/conformance/requirements.txt`.
pub(crate) fn environment() -> Result<PathBuf> {
    environment_of("requirements.txt")
}

/// The same of another list in `tests/conformance`: of what does not go together with the rest.
pub(crate) fn environment_of(list: &str) -> Result<PathBuf> {
    environment_at(&format!("tests/conformance/{list}"))
}

/// The same of any list in the repository.
pub(crate) fn environment_at(list: &str) -> Result<PathBuf> {
    let text = std::fs::read_to_string(crate::root().join(list))?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let folder = crate::cache_folder().join(format!("test-python-{:016x}", hasher.finish()));
    let python = folder.join("bin/python");
    // Written last: an environment that was cut short is made again.
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    println!("making {} (once)", folder.display());
    // Triton's Python backend brings an interpreter, and goes with the system's library, not with a newer one.
    let system = list.ends_with("requirements-pytriton.txt") && Path::new("/usr/bin/python3").exists();
    let interpreter = if system { "/usr/bin/python3" } else { "python3" };
    let create = || Command::new(interpreter).args(["-m", "venv", "--clear"]).arg(&folder).status();
    if !create().context("python3 is needed")?.success() {
        // Debian keeps venv in a package of its own.
        let installed = Command::new("apt-get").args(["install", "-y", "-q", "python3-venv"]).status()?;
        ensure!(installed.success() && create()?.success(), "cannot make a Python environment");
    }
    // These bring along what nothing here uses.
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
        ensure!(installed.success(), "pip cannot install what {list} names");
    }
    std::fs::write(complete, "")?;
    Ok(python)
}
