//! A virtual environment with what the Python side needs, made once per list of requirements.

use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;

/// The interpreter of an environment that has everything in `tests/conformance/requirements.txt`.
pub(crate) fn environment() -> Result<PathBuf> {
    let requirements = crate::root().join("tests/conformance/requirements.txt");
    let text = std::fs::read_to_string(&requirements)?;
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
    let create = || Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder).status();
    if !create().context("python3 is needed for the conformance tests")?.success() {
        // Debian keeps venv in a package of its own.
        let installed = Command::new("apt-get").args(["install", "-y", "-q", "python3-venv"]).status()?;
        ensure!(installed.success() && create()?.success(), "cannot make a Python environment");
    }
    // Model packages bring frameworks along that nothing here uses.
    let (models, others): (Vec<&str>, Vec<&str>) = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .partition(|line| ["silero", "rapidocr"].iter().any(|name| line.starts_with(name)));
    for (flags, packages) in [(&["-q"][..], others), (&["-q", "--no-deps"], models)] {
        let installed =
            Command::new(&python).args(["-m", "pip", "install"]).args(flags).args(packages).status()?;
        ensure!(installed.success(), "pip cannot install what the tests need");
    }
    std::fs::write(complete, "")?;
    Ok(python)
}
