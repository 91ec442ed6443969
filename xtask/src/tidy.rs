//! The house's rules, each a test over the sources. ARCHITECTURE.md states them.

use crate::root;
use std::path::{Path, PathBuf};

/// Files over 500 lines, each with its reason. Short, and meant to stay so.
const LONG_FILES: [(&str, &str); 0] = [];

fn files(below: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found
}

fn sources() -> Vec<(String, String)> {
    let paths = ["crates", "xtask", "bench", "fuzz"].into_iter().flat_map(|folder| files(folder, "rs"));
    paths
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            (name, std::fs::read_to_string(path).unwrap())
        })
        // What `tests/protos.rs` writes is nobody's to keep tidy.
        .filter(|(_, text)| !text.starts_with("// This file is @generated"))
        .collect()
}

fn manifest(name: &str) -> String {
    std::fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap()
}

/// Names a crate depends on, development aside.
fn dependencies(name: &str) -> Vec<String> {
    let manifest = manifest(name);
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    section.lines().filter_map(|line| Some(line.split(['.', ' ', '=']).next()?.to_owned())).collect()
}

#[test]
fn core_knows_the_words_and_not_the_world() {
    for banned in ["tokio", "hyper", "axum", "tonic", "kube", "clap", "sqlx", "serde", "serde_json", "ort"] {
        assert!(!dependencies("drisse-core").contains(&banned.to_owned()), "drisse-core depends on {banned}");
    }
}

#[test]
fn dependencies_point_one_way() {
    let allowed: [(&str, &[&str]); 12] = [
        ("drisse-core", &[]),
        ("drisse-net", &["drisse-core"]),
        ("drisse-wire", &["drisse-core"]),
        ("drisse-client", &["drisse-net", "drisse-wire"]),
        ("drisse-conformance", &["drisse-net", "drisse-wire"]),
        ("drisse-registry", &["drisse-core"]),
        ("drisse-engines", &["drisse-core"]),
        ("drisse-scoring", &["drisse-core", "drisse-net", "drisse-wire"]),
        ("drisse-gateway", &["drisse-core", "drisse-net", "drisse-wire"]),
        ("drisse-targets", &["drisse-core", "drisse-net", "drisse-registry", "drisse-wire"]),
        ("drisse-control", &["drisse-core", "drisse-net", "drisse-registry", "drisse-wire"]),
        (
            "drisse",
            &[
                "drisse-client",
                "drisse-conformance",
                "drisse-control",
                "drisse-core",
                "drisse-engines",
                "drisse-gateway",
                "drisse-net",
                "drisse-registry",
                "drisse-scoring",
                "drisse-targets",
                "drisse-wire",
            ],
        ),
    ];
    let crates = std::fs::read_dir(root().join("crates")).unwrap();
    let mut crates: Vec<_> = crates.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    crates.sort();
    let mut named: Vec<_> = allowed.iter().map(|(name, _)| (*name).to_owned()).collect();
    named.sort();
    assert_eq!(crates, named, "a new crate has its place in ARCHITECTURE.md and here");
    for (name, allowed) in allowed {
        for dependency in dependencies(name).iter().filter(|name| name.starts_with("drisse")) {
            assert!(allowed.contains(&&**dependency), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn servers_name_no_engine_and_no_target() {
    for (name, text) in sources() {
        let server = ["scoring", "gateway", "control"]
            .iter()
            .any(|c| name.starts_with(&format!("crates/drisse-{c}/src")));
        for named in ["drisse_engines", "ort::", "drisse_targets"] {
            assert!(!server || !text.contains(named), "{name} names {named}");
        }
    }
}

#[test]
fn unsafe_stays_at_its_seam() {
    for (name, text) in sources() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let uses = code.filter(|line| line.contains("unsafe ") && !line.contains("\"unsafe")).count();
        // The probe in bench/ is the C API itself.
        let allowed = name.starts_with("crates/drisse-engines/src/onnx/") || name == "bench/src/probe.rs";
        assert!(uses == 0 || allowed || name == "xtask/src/tidy.rs", "{name} uses unsafe");
        if allowed && uses > 0 {
            assert!(text.contains("// SAFETY:"), "{name} does not say why its unsafe is sound");
        }
    }
}

#[test]
fn every_file_opens_with_what_lives_there_and_stays_short() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} does not open with a //! sentence");
        let lines = text.lines().count();
        let excused = LONG_FILES.iter().any(|(file, _)| *file == name);
        assert!(lines <= 500 || excused, "{name} has {lines} lines");
    }
}

#[test]
fn modules_are_files_beside_their_folder() {
    assert!(sources().iter().all(|(name, _)| !name.ends_with("/mod.rs")), "use foo.rs and foo/, no mod.rs");
}

#[test]
fn no_test_sleeps_or_is_ignored() {
    for (name, text) in sources() {
        let test = name.contains("/tests/") || name.ends_with("tests.rs");
        if test {
            assert!(!text.contains("sleep("), "{name} sleeps: wait for what happens");
        }
        assert!(name.ends_with("tidy.rs") || !text.contains("#[ignore"), "{name} ignores a test");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section =
        text.split("[workspace.dependencies]").nth(1).unwrap().split("[workspace.lints").next().unwrap();
    assert!(
        section.matches('#').count() >= 15,
        "reasons stand behind the dependencies, or above their group"
    );
}

#[test]
fn the_architecture_stays_readable_and_links_lead_somewhere() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    assert!(read("ARCHITECTURE.md").lines().count() <= 200);
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        let text = read(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains("://") {
                assert!(Path::new(root()).join(link).exists(), "{name} links to {link}, which is not there");
            }
        }
    }
}
