//! The acknowledged state of a workspace, and the check that all of it is there.

use crate::workspace::Workspace;
use drisse_testkit::wait;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The limit for the time until every service answers again.
const SOON: Duration = Duration::from_secs(10);

/// The results of commands that succeeded.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Known {
    /// The digest of each model, by `name:version`.
    pub(crate) models: BTreeMap<String, String>,
    /// The primary key of each service, by name.
    pub(crate) services: BTreeMap<String, String>,
    /// Operations by number.
    pub(crate) operations: BTreeMap<String, Value>,
}

impl Known {
    /// Reads the current state of a workspace.
    pub(crate) fn of(workspace: &Workspace) -> Self {
        let items =
            |what: &str| workspace.json(&[what, "--limit", "1000"])["items"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
        let models = items("models").into_iter();
        let services = items("services").into_iter();
        let operations = items("operations").into_iter();
        Self {
            models: models
                .map(|model| {
                    (format!("{}:{}", text(&model["name"]), model["version"]), text(&model["digest"]))
                })
                .collect(),
            services: services
                .map(|service| {
                    let name = text(&service["name"]);
                    let keys = workspace.json(&["keys", &name]);
                    (name, text(&keys["primary_key"]))
                })
                .collect(),
            operations: operations.map(|operation| (operation["id"].to_string(), operation)).collect(),
        }
    }

    /// Starts a workspace that had acknowledged `self` and may have got as far as `next`. Returns what is wrong with
    /// it, or `None` if nothing is.
    pub(crate) fn missing(&self, next: &Self, workspace: &Workspace) -> Option<String> {
        let ran = workspace.run(&["up"]);
        if ran.code != 0 {
            return Some(format!("the workspace does not start: {}", ran.stderr));
        }
        // Operations that were running continue, and succeed or fail.
        wait("running operations end", || {
            let operations = workspace.json(&["operations"]);
            operations["items"].as_array().unwrap().iter().all(|operation| operation["state"] != "Running")
        });
        let now = Self::of(workspace);
        let models = differs(&self.models, &next.models, &now.models);
        let services = || differs(&self.services, &next.services, &now.services);
        if let Some(what) = models.or_else(services) {
            return Some(what);
        }
        for (id, operation) in &self.operations {
            if now.operations.get(id) != Some(operation) {
                return Some(format!("operation {id} is {:?} but was {operation}", now.operations.get(id)));
            }
        }
        let ran = workspace.run(&["models", "verify"]);
        if ran.code != 0 {
            return Some(ran.stderr);
        }
        for service in now.services.keys() {
            let began = Instant::now();
            while let Some(ran) = Some(workspace.run(&["score", service])).filter(|ran| ran.code != 0) {
                if began.elapsed() > SOON {
                    return Some(format!("service {service} does not serve: {}", ran.stderr));
                }
            }
        }
        // Files that are being written exist for a moment.
        let began = Instant::now();
        while let Some(path) = partial_file(&workspace.root) {
            if began.elapsed() > SOON {
                return Some(format!("{} is left over", path.display()));
            }
        }
        None
    }
}

/// Returns an entry that differs from its acknowledged value, or one that was deleted and is back.
fn differs(
    before: &BTreeMap<String, String>,
    next: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> Option<String> {
    for (name, value) in before {
        let kept = match next.get(name) {
            Some(next) if next == value => now.get(name) == Some(value),
            // A key was being regenerated.
            Some(_) => now.contains_key(name),
            // The entry was being deleted.
            None => true,
        };
        if !kept {
            return Some(format!("{name} is {:?} but was acknowledged as {value}", now.get(name)));
        }
    }
    let back = now.keys().find(|name| !before.contains_key(*name) && !next.contains_key(*name));
    back.map(|name| format!("{name} is back"))
}

/// Returns a partly written file of the workspace, if there is one.
fn partial_file(root: &Path) -> Option<PathBuf> {
    for folder in ["", "store", "store/ingest", "store/blobs/sha256", "store/views", "routes", "services"] {
        for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
            if folder == "store/ingest" || half_written(&entry.file_name().to_string_lossy()) {
                return Some(entry.path());
            }
        }
    }
    None
}

fn half_written(name: &str) -> bool {
    name.starts_with('.') || name.ends_with(".new")
}
