//! Finds the system packages that files came from, so that vulnerability scanners can recognize them in images.
//!
//! Works with Debian's `dpkg(1)` and its file lists in `/var/lib/dpkg/info`. Scanners read `/var/lib/dpkg/status.d`,
//! which images without a package manager have. On other systems the result is empty.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A Debian package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// The package's paragraph in dpkg's `status` file.
    pub(super) paragraph: String,
}

/// Returns the packages that own these files, sorted by name. `dpkg` is dpkg's folder, `/var/lib/dpkg`.
pub(super) fn packages(dpkg: &Path, files: &[PathBuf]) -> Vec<Package> {
    let owners = owners(&dpkg.join("info"), files);
    let status = fs::read_to_string(dpkg.join("status")).unwrap_or_default();
    let mut found = BTreeMap::new();
    for paragraph in status.split("\n\n").filter(|_| !owners.is_empty()) {
        let field =
            |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let (Some(name), Some(version)) = (field("Package"), field("Version")) else { continue };
        let qualified = format!("{name}:{}", field("Architecture").unwrap_or_default());
        if [name, &*qualified].iter().any(|owner| owners.contains(*owner)) && is_plain(name) {
            let paragraph = format!("{}\n", paragraph.trim());
            let package = Package { name: name.to_owned(), version: version.to_owned(), paragraph };
            found.insert(name.to_owned(), package);
        }
    }
    found.into_values().collect()
}

/// Returns the names of the packages whose file lists have one of the files.
fn owners(info: &Path, files: &[PathBuf]) -> HashSet<String> {
    // Lists may still have paths from before `/lib` became a link to `/usr/lib`.
    let spelled = |path: &PathBuf| {
        let path = path.display().to_string();
        [path.strip_prefix("/usr").unwrap_or(&path).to_owned(), path]
    };
    let wanted: HashSet<_> = files.iter().flat_map(spelled).collect();
    let mut owners = HashSet::new();
    for entry in fs::read_dir(info).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "list") {
            continue;
        }
        let list = fs::read_to_string(&path).unwrap_or_default();
        if list.lines().any(|line| wanted.contains(line))
            && let Some(owner) = path.file_stem().and_then(|stem| stem.to_str())
        {
            owners.insert(owner.to_owned());
        }
    }
    owners
}

/// Returns whether a package name is safe as a file name: Debian policy, section 5.6.1.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.')
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c))
}
