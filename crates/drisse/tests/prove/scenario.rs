//! Changes of a workspace, each made by the command of a user, and the conditions that must hold after it even if a
//! process died meanwhile.

use crate::engine::{CACHE, Engine, podman};
use crate::faulty_registry::faulty;
use crate::support::{library, root};
use crate::workspace::{Ran, Workspace, ran};
use drisse_testkit::{PATIENCE, found};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const DIGITS: &str = "examples/digits/digits.onnx";

/// A change: the commands before it, its own command, and the condition that holds once it is done.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Whether it needs a container engine.
    pub(crate) contained: bool,
    before: &'static [&'static [&'static str]],
    change: &'static [&'static str],
    done: fn(&Run) -> bool,
}

/// A crash point that a process passes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Passed {
    pub(crate) role: String,
    pub(crate) step: String,
}

/// One run of a scenario, in its own workspace.
pub(crate) struct Run {
    scenario: &'static Scenario,
    workspace: Workspace,
    steps: PathBuf,
    other: PathBuf,
    registry: String,
    /// The primary key before the change.
    key: Option<String>,
    /// The result of the change's command, once it has ended.
    ran: Option<Ran>,
    /// The engine of its containers. Declared after the workspace, which must be dropped first.
    engine: Option<Engine>,
}

/// `OTHER` stands for a model file with other bytes than the digits model but the same meaning, `REGISTRY` for a
/// reference to a model in a remote registry.
const SCENARIOS: [Scenario; 10] = [
    Scenario {
        name: "register",
        contained: false,
        before: &[],
        change: &["models", "register", DIGITS, "--name", "m"],
        done: |run| run.has_models(&["m:1"]),
    },
    Scenario {
        name: "deploy",
        contained: false,
        before: &[&["up"]],
        change: &["deploy", DIGITS, "--name", "s"],
        done: |run| run.has_models(&["s:1"]) && run.serves(1),
    },
    Scenario {
        name: "update",
        contained: false,
        before: &[&["deploy", DIGITS, "--name", "s"]],
        change: &["update", "s", "OTHER"],
        done: |run| run.has_models(&["s:1", "s:2"]) && run.serves(2),
    },
    Scenario {
        name: "rollback",
        contained: false,
        before: &[&["deploy", DIGITS, "--name", "s"], &["update", "s", "--max-wait", "1s"]],
        change: &["rollback", "s"],
        done: |run| run.serves(1),
    },
    Scenario {
        name: "regenerate",
        contained: false,
        before: &[&["deploy", DIGITS, "--name", "s"]],
        change: &["keys", "s", "--regenerate", "primary"],
        done: |run| run.serves(1) && run.workspace_key() != run.key,
    },
    Scenario {
        name: "delete",
        contained: false,
        before: &[&["deploy", DIGITS, "--name", "s"]],
        change: &["delete", "s"],
        done: |run| run.services().is_empty() && run.has_models(&["s:1"]),
    },
    Scenario {
        name: "collect garbage",
        contained: false,
        before: &[
            // A model that was served has a view.
            &["deploy", DIGITS, "--name", "m"],
            &["delete", "m"],
            &["models", "register", "OTHER", "--name", "m"],
        ],
        change: &["models", "delete", "m:1"],
        done: |run| run.has_models(&["m:2"]),
    },
    Scenario {
        name: "pull",
        contained: false,
        before: &[&["up"]],
        change: &["models", "pull", "REGISTRY", "--name", "m"],
        done: |run| run.has_models(&["m:1"]),
    },
    Scenario {
        name: "deploy in a container",
        contained: true,
        before: &[&["up"]],
        change: &["deploy", DIGITS, "--name", "s", "--target", "container"],
        done: |run| run.has_models(&["s:1"]) && run.serves(1),
    },
    Scenario {
        name: "delete from a container",
        contained: true,
        before: &[&["deploy", DIGITS, "--name", "s", "--target", "container"]],
        change: &["delete", "s"],
        done: |run| run.services().is_empty() && run.has_models(&["s:1"]),
    },
];

/// The scenarios that can run on this machine: those with containers need a container engine, which CI has.
pub(crate) fn all() -> impl Iterator<Item = &'static Scenario> {
    static ALL: [Scenario; 10] = SCENARIOS;
    let contained = podman().is_some();
    ALL.iter().filter(move |scenario| contained || !scenario.contained)
}

impl Scenario {
    /// Runs the scenario undisturbed and returns the crash points that its processes pass.
    pub(crate) fn trace(&'static self) -> Vec<Passed> {
        let mut run = self.prepare();
        run.change();
        run.settled().unwrap_or_else(|why| panic!("{}: {why}", self.name));
        let text = std::fs::read_to_string(run.steps.join("passed")).unwrap();
        let passed = |line: &str| {
            let (role, step) = line.split_once('\t').unwrap();
            Passed { role: role.to_owned(), step: step.to_owned() }
        };
        text.lines().map(passed).collect()
    }

    /// Makes a workspace and runs the commands before the change.
    pub(crate) fn prepare(&'static self) -> Run {
        let workspace = Workspace::new();
        let steps = workspace.folder.path().join("steps");
        std::fs::create_dir(&steps).unwrap();
        let other = workspace.variant("other");
        let engine = self.contained.then(Engine::start).flatten();
        let registry = faulty(|_, _| None).reference("m:1");
        let mut run = Run { scenario: self, workspace, steps, other, registry, key: None, ran: None, engine };
        for command in self.before {
            let ran = run.run(command);
            assert_eq!(ran.code, 0, "{command:?}: {ran:?}");
        }
        if !self.before.is_empty() {
            run.key = run.workspace_key();
        }
        // The crash points passed so far do not belong to the change.
        std::fs::write(run.steps.join("trace"), "").unwrap();
        run
    }
}

impl Run {
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let other = self.other.to_str().unwrap();
        let arguments: Vec<_> = arguments
            .iter()
            .map(|word| match *word {
                "OTHER" => other,
                "REGISTRY" => &self.registry,
                word => word,
            })
            .collect();
        let mut command = self.workspace.command(&arguments);
        if arguments.contains(&"pull") {
            // The cache of pulled blobs is not shared with other runs.
            command.env("XDG_CACHE_HOME", self.workspace.folder.path()).env("DRISSE_ONNXRUNTIME", library());
        }
        command.env("DRISSE_CRASH_POINTS", &self.steps);
        if let Some(engine) = &self.engine {
            command.env("DOCKER_HOST", engine.host()).env("XDG_CACHE_HOME", &*CACHE);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    /// Makes a process `kill` or `stop` itself (`how`) the `nth` time it passes the crash point.
    pub(crate) fn arm(&self, passed: &Passed, how: &str, nth: usize) {
        let file = self.steps.join(format!("{} {}", passed.role, passed.step));
        std::fs::write(file, format!("{how} {nth}")).unwrap();
    }

    /// The process that was killed or stopped, if one was.
    pub(crate) fn victim(&self, how: &str) -> Option<u32> {
        let names = std::fs::read_dir(&self.steps).unwrap().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix(&format!("{how} "))?.parse().ok()).next()
    }

    pub(crate) fn happened(&self, how: &str) -> bool {
        self.victim(how).is_some()
    }

    /// Makes the change and waits for its command.
    pub(crate) fn change(&mut self) {
        self.ran = Some(self.run(self.scenario.change));
    }

    /// Begins the change and returns a channel that receives the result of its command.
    pub(crate) fn begin_change(&self) -> Receiver<Ran> {
        let mut command = self.command(self.scenario.change);
        let (sender, receiver) = channel();
        command.stdin(Stdio::null());
        std::thread::spawn(move || sender.send(ran(command)));
        receiver
    }

    /// Waits for the command that [`Run::begin_change`] started.
    pub(crate) fn end_change(&mut self, changing: Receiver<Ran>) {
        if self.ran.is_none() {
            self.ran = changing.recv_timeout(PATIENCE).ok();
        }
    }

    /// Returns whether the command has ended.
    pub(crate) fn has_changed(&mut self, changing: &Receiver<Ran>) -> bool {
        if self.ran.is_none() {
            self.ran = changing.try_recv().ok();
        }
        self.ran.is_some()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.workspace.json(arguments)
    }

    fn services(&self) -> Vec<Value> {
        self.json(&["services"])["items"].as_array().unwrap().clone()
    }

    fn models(&self) -> Vec<Value> {
        self.json(&["models"])["items"].as_array().unwrap().clone()
    }

    fn has_models(&self, wanted: &[&str]) -> bool {
        let mut there: Vec<_> = self.models().iter().map(full_name).collect();
        there.sort();
        there == wanted
    }

    fn workspace_key(&self) -> Option<String> {
        let ran = self.workspace.run(&["--output", "json", "keys", "s"]);
        (ran.code == 0).then(|| ran.json()["primary_key"].as_str().unwrap().to_owned())
    }

    /// Returns whether the service has this revision, accepts its key and refuses others.
    fn serves(&self, revision: u64) -> bool {
        let services = self.services();
        let [service] = &services[..] else { return false };
        service["revision"] == revision && service["state"] == "Ready" && self.answers(service)
    }

    fn answers(&self, service: &Value) -> bool {
        let uri = service["scoring_uri"].as_str().unwrap();
        let body = std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap();
        let status = |key: &str| {
            drisse_testkit::Request::new(uri, Some(key), &body).send().map_or(0, |answer| answer.0)
        };
        let Some(key) = self.workspace_key() else { return false };
        let old = self.key.as_ref().filter(|old| **old != key);
        status(&key) == 200 && status("wrong") == 401 && old.is_none_or(|old| status(old) == 401)
    }

    /// Waits until the desired state is reached, and checks it. Returns how long that took from the next command on, or
    /// what is wrong.
    pub(crate) fn settled(&self) -> Result<Duration, String> {
        let began = Instant::now();
        let ran = self.workspace.run(&["services"]);
        if ran.code != 0 {
            return Err(format!("the next command fails: {ran:?}"));
        }
        found(String::new, || match self.wrong() {
            None => Some(Ok(())),
            Some(why) => (began.elapsed() > PATIENCE / 4).then_some(Err(why)),
        })?;
        let took = began.elapsed();
        // Crash points passed from here on do not belong to the change: they kill no process and are not counted.
        for name in names(&self.steps) {
            if !name.starts_with("kill ") && !name.starts_with("stop ") && name != "trace" {
                // Ignores errors: a process that passes the crash point right now may have removed the file.
                let _ = std::fs::remove_file(self.steps.join(name));
            }
        }
        std::fs::copy(self.steps.join("trace"), self.steps.join("passed")).unwrap();
        self.kept()?;
        Ok(took)
    }

    /// Returns a difference from the desired state, if there is one.
    fn wrong(&self) -> Option<String> {
        let operations = self.json(&["operations"]);
        if let Some(running) =
            operations["items"].as_array()?.iter().find(|operation| operation["state"] == "Running")
        {
            return Some(format!("still running: {running}"));
        }
        for service in self.services() {
            if service["state"] != "Ready" || !self.answers(&service) {
                return Some(format!("does not serve: {service}"));
            }
        }
        self.left_over()
    }

    /// Returns a process, socket, file or blob that should not exist, if there is one.
    fn left_over(&self) -> Option<String> {
        let services = self.services();
        let processes = self.workspace.processes();
        let containers = self.engine.as_ref().map(Engine::containers).unwrap_or_default();
        if processes.len() + containers.len() != 1 + services.len() {
            return Some(format!("processes: {processes:?}, containers: {containers:?}"));
        }
        let mut ids: BTreeSet<_> = processes.iter().filter_map(|(_, line)| id(line)).collect();
        ids.extend(containers.iter().filter_map(|name| Some(name.rsplit('-').next()?.to_owned())));
        let admin = processes[0].1.split(' ').skip_while(|word| *word != "--admin").nth(1)?;
        let sockets = Path::new(admin.trim_start_matches("unix:")).parent().map(names).unwrap_or_default();
        let strange = |name: &&String| {
            *name != "control"
                && name.rsplit_once('.').is_none_or(|(id, end)| !ids.contains(id) || end.len() != 1)
        };
        if let Some(socket) = sockets.iter().find(strange) {
            return Some(format!("socket {socket} is left"));
        }
        let root = &self.workspace.root;
        let known: BTreeSet<_> = services.iter().filter_map(|service| service["name"].as_str()).collect();
        let routes = names(&root.join("routes"));
        if let Some(file) =
            routes.iter().find(|name| !name.strip_suffix(".json").is_some_and(|name| known.contains(name)))
        {
            return Some(format!("routes/{file} is left"));
        }
        for service in names(&root.join("services")) {
            let files = names(&root.join("services").join(&service));
            let strange = files.iter().any(|name| !["cache", "keys", "logs", "secrets"].contains(&&**name));
            if !known.contains(&*service) || strange {
                return Some(format!("services/{service} is left, with {files:?}"));
            }
        }
        self.left_in_store()
    }

    fn left_in_store(&self) -> Option<String> {
        let store = self.workspace.root.join("store");
        let blobs = store.join("blobs/sha256");
        let (mut live, mut digests) = (BTreeSet::new(), BTreeSet::new());
        for model in self.models() {
            let hex = |digest: &Value| digest.as_str().unwrap().trim_start_matches("sha256:").to_owned();
            digests.insert(hex(&model["digest"]));
            let package = hex(&model["manifest_digest"]);
            let Ok(manifest) = std::fs::read(blobs.join(&package)) else {
                return Some(format!("no manifest of {model}"));
            };
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            live.insert(package);
            live.insert(hex(&manifest["config"]["digest"]));
            live.extend(manifest["layers"].as_array().unwrap().iter().map(|layer| hex(&layer["digest"])));
        }
        let there: BTreeSet<_> = names(&blobs).into_iter().collect();
        if there != live {
            return Some(format!(
                "blobs: too many {:?}, missing {:?}",
                there.difference(&live),
                live.difference(&there)
            ));
        }
        let left = names(&store.join("ingest"));
        if !left.is_empty() {
            return Some(format!("ingest: {left:?}"));
        }
        names(&store.join("views"))
            .iter()
            .find(|view| !digests.contains(*view))
            .map(|view| format!("view {view} is left"))
    }

    /// Checks that everything acknowledged is there and undamaged.
    fn kept(&self) -> Result<(), String> {
        let verified = self.workspace.run(&["models", "verify"]);
        if verified.code != 0 {
            return Err(format!("{verified:?}"));
        }
        let Some(ran) = &self.ran else { return Err("the command never ended".to_owned()) };
        let done = (self.scenario.done)(self);
        // If the command itself was killed, it may not have sent its request yet.
        let began =
            std::fs::read_to_string(self.steps.join("passed")).unwrap().contains("an operation has begun");
        match ran.code {
            0 if !done => Err(format!("acknowledged, but not there: {ran:?}")),
            -1 if began && !done => Err("begun, but not completed".to_owned()),
            0 | -1 => Ok(()),
            // The connection broke after the request was sent, and the command says that the change may have started.
            2 if ran.stderr.contains("may have started") => Ok(()),
            _ => Err(format!("the command failed: {ran:?}")),
        }
    }
}

/// A model's `name:version`.
fn full_name(model: &Value) -> String {
    format!("{}:{}", model["name"].as_str().unwrap(), model["version"])
}

/// The ID in the names of a process's sockets: the last part of its `--replica` or `--gateway` argument.
fn id(line: &str) -> Option<String> {
    let mut words = line.split(' ').skip_while(|word| !matches!(*word, "--replica" | "--gateway"));
    words.nth(1)?.rsplit('/').next().map(str::to_owned)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
