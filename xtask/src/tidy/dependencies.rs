//! Which crate may depend on which, and why there are dependencies at all.

use super::read;
use crate::root;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// The names of crates of the workspace that each of its crates may depend on, tests aside.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("drisse-core", &[]),
    ("drisse-net", &["drisse-core"]),
    ("drisse-wire", &["drisse-core"]),
    ("drisse-client", &["drisse-net", "drisse-wire"]),
    ("drisse-conformance", &["drisse-net", "drisse-wire"]),
    ("drisse-registry", &["drisse-core"]),
    ("drisse-engines", &["drisse-core"]),
    ("drisse-scoring", &["drisse-core", "drisse-net", "drisse-wire"]),
    ("drisse-serve", &["drisse-core", "drisse-net", "drisse-registry", "drisse-scoring", "drisse-wire"]),
    ("drisse-gateway", &["drisse-core", "drisse-net", "drisse-wire"]),
    ("drisse-targets", &["drisse-core", "drisse-net", "drisse-registry", "drisse-wire"]),
    ("drisse-reconcile", &["drisse-core", "drisse-wire"]),
    ("drisse-control", &["drisse-core", "drisse-net", "drisse-reconcile", "drisse-registry", "drisse-wire"]),
    ("drisse-testkit", &[]),
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
            "drisse-serve",
            "drisse-targets",
            "drisse-wire",
        ],
    ),
];

/// Returns each crate in `crates` with its dependencies and their kinds (`null` for the usual ones), as cargo sees them.
fn crates() -> BTreeMap<String, Vec<(String, Value)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root());
    let metadata: Value = serde_json::from_slice(&metadata.output().unwrap().stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let ours = packages.filter(|package| package["manifest_path"].as_str().unwrap().contains("/crates/"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let named = ours.map(|package| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let dependencies =
            dependencies.map(|dependency| (text(&dependency["name"]), dependency["kind"].clone()));
        (text(&package["name"]), dependencies.collect())
    });
    named.collect()
}

#[test]
fn core_does_no_input_or_output() {
    for banned in ["tokio", "hyper", "axum", "tonic", "kube", "clap", "sqlx", "serde", "serde_json", "ort"] {
        let used = crates()["drisse-core"].iter().any(|(name, kind)| name == banned && *kind != "dev");
        assert!(!used, "drisse-core depends on {banned}");
    }
}

#[test]
fn the_reconciler_needs_no_database_and_no_server() {
    for banned in ["sqlx", "axum", "hyper", "drisse-net", "drisse-control"] {
        let used = crates()["drisse-reconcile"].iter().any(|(name, kind)| name == banned && *kind != "dev");
        assert!(!used, "drisse-reconcile depends on {banned}");
    }
}

#[test]
fn dependencies_point_one_way() {
    let crates = crates();
    let mut named: Vec<_> = ALLOWED.iter().map(|(name, _)| *name).collect();
    named.sort_unstable();
    let found: Vec<_> = crates.keys().collect();
    assert_eq!(found, named, "a new crate needs a place in ARCHITECTURE.md and here");
    for (name, allowed) in ALLOWED {
        let used = crates[name].iter().filter(|(name, kind)| name.starts_with("drisse") && *kind != "dev");
        for (dependency, _) in used {
            assert!(allowed.contains(&&**dependency), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let text = read("Cargo.toml");
    let section = text.split("[workspace.dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    for line in section.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let reason = line.split_once(" # ").is_some_and(|(_, reason)| reason.trim().len() > 5);
        assert!(line.starts_with("drisse-") || reason, "no reason follows this dependency: {line}");
    }
}
