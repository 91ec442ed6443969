//! Which of the system's packages files came from, for those who look images over for known weaknesses.
//!
//! Debian's: `dpkg(1)`, its lists in `/var/lib/dpkg/info`. Scanners read `/var/lib/dpkg/status.d`, as images
//! without a package manager have it. Elsewhere nothing is known, and nothing is said.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A package that a file came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// Its paragraph in dpkg's status.
    pub(super) paragraph: String,
}

/// The packages of these files, as dpkg in `dpkg` knows them, by name.
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

/// Names of the packages whose lists have one of the files.
fn owners(info: &Path, files: &[PathBuf]) -> HashSet<String> {
    // Lists have paths of before `/lib` became a link to `/usr/lib`.
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

/// A name that may be a file's: Debian policy, section 5.6.1.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.')
        && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c))
}
