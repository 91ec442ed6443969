//! The software bill of materials, as CycloneDX: every crate that is linked into the program, and the C libraries that
//! they contain. It does not list what only runs during a build (macros, build scripts) or in tests.

use crate::{output, root};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The property with the number of a crate's lines that contain `unsafe`.
pub(crate) const UNSAFE: &str = "drisse:unsafe-lines";

/// The dependencies of each crate, both as `NAME@VERSION`.
type Edges = BTreeMap<String, BTreeSet<String>>;

/// Returns the bill of materials of the program with this SHA-256 digest. It contains no time and no random number, so
/// that the same sources give the same text.
pub(crate) fn document(target: &str, digest: &str) -> Result<Value> {
    let tree = ["tree", "--locked", "-p", "drisse", "-e", "normal,no-proc-macro", "--target", target];
    let format = ["--prefix", "depth", "--format", "|{p}"];
    let cargo = |arguments: &[&str]| output(Command::new("cargo").args(arguments).current_dir(root()));
    let edges = edges(&cargo(&[&tree[..], &format].concat())?)?;
    let metadata = ["metadata", "--locked", "--format-version", "1", "--filter-platform", target];
    let packages: Value = serde_json::from_str(&cargo(&metadata)?)?;
    let packages = packages["packages"].as_array().context("`cargo metadata` lists no packages")?;
    let lock = std::fs::read_to_string(root().join("Cargo.lock"))?;
    let mut components = Vec::new();
    let mut program = Value::Null;
    for id in edges.keys() {
        let mut same =
            packages.iter().filter(|p| format!("{}@{}", text(p, "name"), text(p, "version")) == *id);
        let package = same.next().with_context(|| format!("`cargo metadata` does not describe {id}"))?;
        match text(package, "name") {
            "drisse" => program = component("application", package, Some(digest)),
            _ => components.push(component("library", package, checksum(&lock, id))),
        }
        if text(package, "name") == "libsqlite3-sys" {
            components.push(sqlite(package)?);
        }
    }
    let compiler = output(Command::new("rustc").arg("-vV").current_dir(root()))?;
    let release = compiler
        .lines()
        .find_map(|line| line.strip_prefix("release: "))
        .context("rustc prints no release")?;
    components.push(json!({ "type": "library", "bom-ref": format!("rust-std@{release}"), "name": "rust-std",
        "version": release, "licenses": [{ "expression": "MIT OR Apache-2.0" }] }));
    let dependencies: Vec<_> = edges
        .iter()
        .map(|(id, on)| json!({ "ref": id, "dependsOn": on.iter().collect::<Vec<_>>() }))
        .collect();
    Ok(json!({ "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": { "component": program }, "components": components, "dependencies": dependencies }))
}

fn component(kind: &str, package: &Value, digest: Option<&str>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let id = format!("{name}@{version}");
    let mut component = json!({ "type": kind, "bom-ref": id, "name": name, "version": version });
    // The workspace's own crates are not in a registry.
    if package["source"].is_string() {
        component["purl"] = json!(format!("pkg:cargo/{id}"));
    }
    // Older manifests write `MIT/Apache-2.0`.
    let licence = text(package, "license").replace('/', " OR ");
    if !licence.is_empty() {
        component["licenses"] = json!([{ "expression": licence }]);
    }
    if let Some(digest) = digest {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": digest }]);
    }
    let lines = unsafe_lines(&Path::new(text(package, "manifest_path")).with_file_name("src"));
    component["properties"] = json!([{ "name": UNSAFE, "value": lines.to_string() }]);
    component
}

/// Counts the lines with `unsafe` in a folder's sources, without comments but including code for other targets.
fn unsafe_lines(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let code = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
        code.filter(|line| line.contains("unsafe ")).count()
    };
    let one = |path: PathBuf| match path.extension() {
        _ if path.is_dir() => unsafe_lines(&path),
        Some(extension) if extension == "rs" => count(&path),
        _ => 0,
    };
    entries.map(|entry| one(entry.path())).sum()
}

/// The component for the C library inside `libsqlite3-sys`, so that vulnerabilities of SQLite match by its name.
fn sqlite(package: &Value) -> Result<Value> {
    let header = Path::new(text(package, "manifest_path")).with_file_name("sqlite3/sqlite3.h");
    let header =
        std::fs::read_to_string(&header).with_context(|| format!("cannot read {}", header.display()))?;
    let version = header.lines().find_map(|line| line.strip_prefix("#define SQLITE_VERSION "));
    let version = version.context("sqlite3.h does not define SQLITE_VERSION")?.trim().trim_matches('"');
    Ok(
        json!({ "type": "library", "bom-ref": format!("sqlite@{version}"), "name": "sqlite", "version": version,
        "cpe": format!("cpe:2.3:a:sqlite:sqlite:{version}:*:*:*:*:*:*:*"),
        "licenses": [{ "license": { "name": "Public domain" } }] }),
    )
}

/// Parses the lines of `cargo tree --prefix depth`: `2|NAME vVERSION …`. The parent of a line is the last line before
/// it whose depth is smaller by one.
fn edges(tree: &str) -> Result<Edges> {
    let mut edges = Edges::new();
    let mut above: Vec<String> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let split = line.split_once('|');
        let (depth, package) =
            split.with_context(|| format!("cannot parse this line of `cargo tree`: {line}"))?;
        let mut words = package.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let id = format!("{name}@{}", version.trim_start_matches('v'));
        above.truncate(depth.parse()?);
        if let Some(parent) = above.last() {
            edges.entry(parent.clone()).or_default().insert(id.clone());
        }
        edges.entry(id.clone()).or_default();
        above.push(id);
    }
    Ok(edges)
}

/// Returns a package's checksum in Cargo.lock, or `None` for a package of the workspace.
fn checksum<'a>(lock: &'a str, id: &str) -> Option<&'a str> {
    let (name, version) = id.split_once('@')?;
    let package = lock.split_once(&format!("name = \"{name}\"\nversion = \"{version}\"\n"))?.1;
    let package = package.split("\n[[").next()?;
    package.lines().find_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_becomes_what_depends_on_what() {
        let edges = edges("0|a v1.0.0 (/a)\n1|b v2.0.0\n2|c v3.0.0\n1|c v3.0.0 (*)\n").unwrap();
        let of = |id: &str| edges[id].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(of("a@1.0.0"), ["b@2.0.0", "c@3.0.0"]);
        assert_eq!((of("b@2.0.0"), of("c@3.0.0")), (vec!["c@3.0.0"], vec![]));
    }

    #[test]
    fn checksums_are_the_packages_own() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"b\"\nversion = \"1.0.0\"\n\
                    source = \"s\"\nchecksum = \"ab\"\n";
        assert_eq!((checksum(lock, "a@1.0.0"), checksum(lock, "b@1.0.0")), (None, Some("ab")));
    }
}
