//! Services in containers, run by a real engine that shares no state with the machine's own engine.

use crate::engine::{CACHE, Engine};
use crate::limits::large_model;
use crate::local::fixture;
use crate::signing::keys;
use crate::support::library;
use crate::workspace::{Disk, Workspace, is_zombie, kill};
use drisse_core::conformance::target;
use drisse_core::{ReplicaSet, Target};
use drisse_net::{Build, runtime_folder};
use drisse_registry::Store;
use drisse_targets::{Container, ContainerConfig};
use drisse_testkit::{PATIENCE, wait};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A workspace whose control plane uses the engine.
struct Containers<'a> {
    workspace: Workspace,
    engine: &'a Engine,
}

impl Containers<'_> {
    fn try_run(&self, arguments: &[&str]) -> Output {
        let mut command = self.workspace.command(arguments);
        command.env("DOCKER_HOST", self.engine.host());
        command.env("XDG_CACHE_HOME", &*CACHE).output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["--output", "json"], arguments].concat())).unwrap()
    }

    fn score(&self, service: &str) -> Value {
        serde_json::from_str(&self.run(&["score", service, "--sample"])).unwrap()
    }
}

#[tokio::test]
async fn containers_keep_every_promise() {
    for engine in [Engine::start(), Engine::docker()].into_iter().flatten() {
        keep_every_promise(engine).await;
    }
}

async fn keep_every_promise(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let fixture = fixture(&store);
    let workspace = drisse_net::random_id();
    let sockets = runtime_folder(&workspace).unwrap();
    let config = ContainerConfig {
        workspace,
        program: crate::program(),
        version: "0".to_owned(),
        build: Build::current("0"),
        onnxruntime: library(),
        onnxruntime_version: |_: &Path| "1".to_owned(),
        sockets: sockets.clone(),
        services: folder.path().join("services"),
        log: folder.path().join("podman.log"),
        store,
        cache: CACHE.join("drisse/images"),
        max_services: 20,
        socket: Some(engine.socket()),
    };
    let all = async {
        let container = ReplicaSet(Container::new(config.clone()));
        target::all(&container, &fixture).await;
        // A new instance finds and removes what an earlier one left.
        let again = ReplicaSet(Container::new(config));
        for service in [&fixture.good[0].service, &fixture.other.service, &fixture.broken.0.service] {
            again.remove(service).await.unwrap();
        }
    };
    tokio::time::timeout(2 * PATIENCE, all).await.expect("it ends in time");
    assert_eq!(engine.containers(), [""; 0]);
    assert_eq!(engine.lines(&["images", "--quiet"]), [""; 0]);
    assert_eq!(std::fs::read_dir(&sockets).unwrap().count(), 0, "no socket is left");
    std::fs::remove_dir(sockets).unwrap();
}

#[test]
fn a_service_lives_through_updates_and_kills_in_containers_and_leaves_nothing() {
    for engine in [Engine::start(), Engine::docker()].into_iter().flatten() {
        lives_and_leaves_nothing(engine);
    }
}

fn lives_and_leaves_nothing(mut engine: Engine) {
    let began = {
        let containers = Containers { workspace: Workspace::new(), engine: &engine };
        let deployed =
            containers.json(&["deploy", "examples/digits", "--target", "container", "--replicas", "2"]);
        assert_eq!((&deployed["state"], &deployed["target"]), (&"Ready".into(), &"container".into()));
        assert_eq!(containers.score("digits")["label"], serde_json::json!([0]));
        // An image has the locale that models of text require.
        let model = "crates/drisse-engines/tests/models/lowercase.onnx";
        let text = containers.json(&["deploy", model, "--target", "container"]);
        assert_eq!(text["state"], "Ready", "{text}");
        containers.json(&["delete", "lowercase"]);
        let before = engine.containers();
        assert_eq!(before.len(), 2, "{before:?}");
        // The container is read-only, has no network, and its description contains no secret.
        let inspected = engine.lines(&["inspect", &before[0]]).concat();
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let host = &inspected[0]["HostConfig"];
        assert_eq!((&host["ReadonlyRootfs"], &host["NetworkMode"]), (&true.into(), &"none".into()));
        let key = deployed["primary_key"].as_str().unwrap();
        assert!(!inspected.to_string().contains(key), "a key is in the container's document");
        // The tuned settings are stored outside the container, for the next replica.
        let remembered = containers.workspace.root.join("services/digits/cache/tuning");
        assert!(
            std::fs::read_dir(&remembered).is_ok_and(|mut files| files.next().is_some()),
            "{remembered:?}"
        );
        // One container is killed from outside: the other one serves, and the killed one is replaced.
        engine.lines(&["kill", &before[0]]);
        assert_eq!(containers.score("digits")["label"], serde_json::json!([0]));
        wait("the container is replaced", || {
            let now = engine.containers();
            now.len() == 2 && !now.contains(&before[0])
        });
        // The control plane is killed: the next one adopts the containers and starts none.
        let is_ready = || {
            let shown = containers.json(&["services", "show", "digits"]);
            let none = vec![];
            let instances = shown["instances"].as_array().unwrap_or(&none);
            let ready = |container: &String| {
                let of = |it: &Value| container.ends_with(it["id"].as_str().unwrap());
                instances.iter().any(|it| of(it) && it["state"] == "ready" && it["in_use"] == true)
            };
            shown["state"] == "Ready" && engine.containers().iter().all(ready)
        };
        wait("both are ready", is_ready);
        let before = engine.containers();
        let control = u32::try_from(containers.workspace.pid("control").unwrap()).unwrap();
        kill(control, "-9");
        wait("it has ended", || is_zombie(control));
        assert_eq!(containers.score("digits")["label"], serde_json::json!([0]));
        wait("both are known", is_ready);
        assert_eq!(engine.containers(), before);
        // A new revision leaves no container of the old one.
        containers.run(&["update", "digits", "--replicas", "1", "--max-wait", "1s"]);
        wait("one is left", || engine.containers().len() == 1);
        assert!(containers.run(&["logs", "digits"]).contains("ready"), "its log is there");
        // Only the images of the last two revisions stay.
        for wait in ["2s", "3s"] {
            containers.run(&["update", "digits", "--max-wait", wait]);
        }
        let mut tags = engine.lines(&["images", "--format", "{{.Tag}}"]);
        tags.sort();
        assert_eq!(tags, ["r3", "r4"]);
        containers.workspace
    };
    // The engine's API restarts while the service runs.
    engine.stop_serving();
    let answer = began.json(&["score", "digits", "--sample"]);
    assert_eq!(answer["label"], serde_json::json!([0]));
    assert!(engine.serve(), "the engine's API comes up again");
    let containers = Containers { workspace: began, engine: &engine };
    // `down` also stops the containers that a killed control plane has left.
    let control = u32::try_from(containers.workspace.pid("control").unwrap()).unwrap();
    kill(control, "-9");
    wait("it has ended", || is_zombie(control));
    containers.run(&["down"]);
    assert_eq!(engine.containers(), [""; 0]);
    containers.run(&["up"]);
    wait("it is back", || containers.json(&["services", "show", "digits"])["ready"] == 1);
    containers.run(&["delete", "digits"]);
    assert_eq!(engine.containers(), [""; 0]);
    assert_eq!(engine.lines(&["images", "--quiet"]), [""; 0]);
    containers.run(&["down"]);
}

#[test]
fn what_cannot_run_in_a_container_says_why() {
    let Some(engine) = Engine::start() else { return };
    let containers = Containers { workspace: Workspace::new(), engine: &engine };
    let refused = |arguments: &[&str]| {
        let output = containers.try_run(&[&["--output", "json"], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let unknown = "crates/drisse-engines/tests/models/unknown_operator.onnx";
    let error = refused(&["deploy", unknown, "--target", "container"]);
    assert!(error.contains("No Op registered for Nope") && error.contains("exited with code 1"), "{error}");
    containers.run(&["delete", "unknown_operator"]);
    assert_eq!(engine.containers(), [""; 0]);
    let model = large_model(&containers.workspace.root, 100);
    let deploy = ["deploy", model.to_str().unwrap(), "--target", "container", "--memory", "64MiB"];
    let error = refused(&deploy);
    assert!(error.contains("ran out of memory and was killed: 64 MiB were not enough"), "{error}");
    let error = refused(&["update", "large", "--memory", "900TB"]);
    assert!(error.contains(" GiB requested, "), "{error}");
    containers.run(&["delete", "large"]);
    // A missing engine is reported before the service is created.
    let elsewhere = Workspace::new();
    let mut command = elsewhere.command(&["deploy", "examples/digits", "--target", "container"]);
    let output = command.env("DOCKER_HOST", "unix:///nowhere/engine.sock").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("/nowhere/engine.sock"), "{error}");
    assert!(!elsewhere.ok(&["services"]).stdout.contains("digits"));
    elsewhere.ok(&["down"]);
    containers.run(&["down"]);
}

#[test]
fn an_engine_whose_disk_is_full_says_so_and_once_there_is_room_everything_goes_on() {
    let Some(disk) = Disk::new("size=40m") else {
        assert!(std::env::var_os("CI").is_none(), "a disk of its own is needed here: run as root");
        return;
    };
    let Some(engine) = Engine::start_in(tempfile::tempdir_in(disk.path()).unwrap(), false) else { return };
    let containers = Containers { workspace: Workspace::new(), engine: &engine };
    let deploy = ["deploy", "examples/digits", "--target", "container"];
    let output = containers.try_run(&deploy);
    let (code, error) = (output.status.code(), String::from_utf8(output.stderr).unwrap());
    assert!(code == Some(1) && error.contains("no space left on device"), "{code:?}: {error}");
    assert!(error.contains("hint: free some room where the engine keeps its images"), "{error}");
    disk.grow("size=400m");
    containers.run(&deploy);
    assert_eq!(containers.score("digits")["label"], serde_json::json!([0]));
    containers.run(&["delete", "digits"]);
    containers.run(&["down"]);
    assert_eq!(engine.lines(&["images", "--quiet"]), [""; 0]);
}

#[test]
fn an_engine_that_cannot_reach_this_machine_gets_the_whole_image() {
    let Some(engine) = Engine::start_in(tempfile::tempdir().unwrap(), true) else { return };
    let containers = Containers { workspace: Workspace::new(), engine: &engine };
    containers.run(&["deploy", "examples/digits", "--target", "container"]);
    assert_eq!(containers.score("digits")["label"], serde_json::json!([0]));
    let log = std::fs::read_to_string(containers.workspace.root.join("logs/control.log")).unwrap();
    assert!(log.contains("does not pull from Drisse, and gets an archive"), "{log}");
    containers.run(&["down"]);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn a_users_own_podman_runs_services_and_says_which_limits_it_cannot_keep() {
    if crate::engine::podman().is_none() {
        return;
    }
    let Some(user) = Stranger::new() else {
        eprintln!("not tested: a user's namespaces cannot be made here");
        return;
    };
    let text = |output: Output| String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let deploy = ["deploy", "digits.onnx", "--target", "container"];
    let output = user.drisse(&deploy);
    assert!(output.status.success(), "{output:?}");
    let scored = text(user.drisse(&["score", "digits"]));
    assert!(scored.contains("\"label\":["), "{scored}");
    let limited = user.drisse(&[&deploy[..], &["--name", "more", "--memory", "1GiB"]].concat());
    // The limit is enforced only if the user has control groups of its own.
    let (enforced, output) = (limited.status.success(), text(limited));
    assert!(enforced || output.contains("no control group for memory"), "{output}");
    assert!(text(user.drisse(&["delete", "digits"])).contains("deleted digits"));
    user.drisse(&["delete", "more"]);
    assert!(user.drisse(&["down"]).status.success());
}

/// A user who is not root, with a home folder of its own.
struct Stranger(tempfile::TempDir);

impl Stranger {
    /// A user ID that no account has.
    const ID: u32 = 2_012_345;

    fn new() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        std::fs::create_dir(path("run")).unwrap();
        std::fs::copy(crate::program(), path("drisse")).unwrap();
        std::fs::copy(library(), path("libonnxruntime.so.1.32.0")).unwrap();
        std::fs::copy(crate::support::root().join("examples/digits/digits.onnx"), path("digits.onnx"))
            .unwrap();
        for file in ["", "run", "drisse", "libonnxruntime.so.1.32.0", "digits.onnx"] {
            std::os::unix::fs::chown(path(file), Some(Self::ID), Some(Self::ID)).ok()?;
        }
        let user = Self(home);
        user.command("unshare")
            .args(["--user", "true"])
            .status()
            .is_ok_and(|made| made.success())
            .then_some(user)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let id = Self::ID;
        command.args([
            &format!("--reuid={id}"),
            &format!("--regid={id}"),
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        command.arg(program).current_dir(self.0.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.0.path()).env("XDG_RUNTIME_DIR", self.0.path().join("run"));
        command.env("DRISSE_WORKSPACE", self.0.path().join("ws"));
        command.stdin(std::process::Stdio::null());
        command
    }

    fn drisse(&self, arguments: &[&str]) -> Output {
        self.command(&self.0.path().join("drisse").display().to_string()).args(arguments).output().unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // Podman leaves a process that holds its namespace, and keeps its API running for a minute.
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let owner = std::fs::metadata(entry.path()).map(|metadata| metadata.uid());
            if let (Some(pid), Ok(Self::ID)) = (pid, owner) {
                kill(pid, "-9");
            }
        }
    }
}

#[test]
fn twenty_services_in_containers_are_back_after_half_of_them_were_killed_from_outside() {
    let Some(engine) = Engine::start() else { return };
    let containers = Containers { workspace: Workspace::new(), engine: &engine };
    containers.run(&["models", "register", "examples/digits"]);
    let names: Vec<_> = (0..20).map(|nth| format!("group-{nth}")).collect();
    let deploy = |name| ["deploy", "digits", "--name", name, "--target", "container"];
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| containers.run(&deploy(name)));
        }
    });
    let output = containers.try_run(&deploy("one-more"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && error.contains("0 services available"), "{error}");
    let before = engine.containers();
    assert_eq!(before.len(), 20);
    let (killed, spared) = before.split_at(10);
    let kill: Vec<_> =
        ["kill", "--signal", "KILL"].into_iter().chain(killed.iter().map(|name| &**name)).collect();
    engine.lines(&kill);
    wait("the killed containers are replaced", || {
        let now = engine.containers();
        now.len() == 20
            && spared.iter().all(|name| now.contains(name))
            && !killed.iter().any(|name| now.contains(name))
    });
    for name in &names {
        assert_eq!(containers.score(name)["label"], serde_json::json!([0]), "{name}");
    }
    containers.run(&["down"]);
    assert_eq!(engine.containers(), [""; 0]);
}

#[test]
fn an_engine_that_is_attached_runs_services_within_its_limits_and_is_detached_when_it_has_none() {
    let Some(mut engine) = Engine::start() else { return };
    // Only the attached target knows the engine.
    let workspace = Workspace::new();
    let mut socket = engine.socket().display().to_string();
    let attach = ["targets", "attach", "box", "--kind", "container", "--socket", &*socket];
    let mut command = workspace.command(&["up"]);
    let command = command.env("DOCKER_HOST", "unix:///nowhere/engine.sock").env("XDG_CACHE_HOME", &*CACHE);
    assert!(command.output().unwrap().status.success());
    workspace.ok(&[&attach[..], &["--max-services", "1"]].concat());
    let secrets = workspace.root.join("secrets");
    std::fs::write(&secrets, "TOKEN=hush\n").unwrap();
    let limits =
        ["--cpu", "0.5", "--memory", "256MiB", "--env", "A=1", "--secret-env", secrets.to_str().unwrap()];
    // Only signed models run, in containers too.
    let (key, public) = keys(&workspace.root, "key");
    workspace.ok(&["models", "register", "examples/digits"]);
    workspace.ok(&["models", "trust", &public]);
    let deploy = [&["deploy", "digits", "--target", "box"][..], &limits].concat();
    let ran = workspace.run(&deploy);
    assert!(ran.code == 1 && ran.stderr.contains("the model is not signed"), "{ran:?}");
    workspace.ok(&["models", "sign", "digits", "--key", &key]);
    workspace.ok(&deploy);
    let container = &engine.containers()[0];
    let inspected = engine.lines(&["inspect", container]).concat();
    let document: Value = serde_json::from_str(&inspected).unwrap();
    let host = &document[0]["HostConfig"];
    assert_eq!((&host["Memory"], &host["NanoCpus"]), (&(256 << 20).into(), &500_000_000.into()));
    assert!(!inspected.contains("hush"), "a secret is in the container's document");
    let process = document[0]["State"]["Pid"].as_u64().unwrap();
    let variables = std::fs::read_to_string(format!("/proc/{process}/environ")).unwrap();
    assert!(variables.contains("TOKEN=hush") && variables.contains("A=1"), "{variables}");
    let refused = |arguments: &[&str], why: &str| {
        let ran = workspace.run(arguments);
        assert!(ran.code == 1 && ran.stderr.contains(why), "{arguments:?}: {ran:?}");
    };
    refused(&["deploy", "digits", "--name", "more", "--target", "box"], "0 services available");
    refused(&["targets", "detach", "box"], "it has 1 service");
    workspace.ok(&[&attach[..], &["--max-services", "2"]].concat());
    socket.push('x');
    refused(&["targets", "attach", "box", "--kind", "container", "--socket", &socket], "it has 1 service");
    // The next control plane knows the attached target too.
    workspace.ok(&["down"]);
    workspace.ok(&["up"]);
    wait("it is back", || workspace.json(&["services", "show", "digits"])["state"] == "Ready");
    // `delete` reports that the engine does not answer, and completes once it does.
    engine.stop_serving();
    let mut delete = workspace.command(&["delete", "digits"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(delete.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waits = notes.find(|line| line.contains("no container engine answers")).unwrap();
    assert!(waits.ends_with("trying again"), "{waits}");
    assert!(engine.serve(), "the engine's API comes up again");
    assert!(notes.last().unwrap().ends_with("service digits is deleted"));
    assert!(delete.wait().unwrap().success());
    // With --force, a service is deleted although its engine is down; its container is removed later.
    workspace.ok(&deploy);
    engine.stop_serving();
    let operation = workspace.json(&["delete", "digits", "--no-wait"])["operation"].to_string();
    workspace.ok(&["operations", "cancel", &operation]);
    wait("it has ended", || workspace.json(&["operations", "show", &operation])["state"] == "Canceled");
    workspace.ok(&["delete", "digits", "--force"]);
    assert!(!workspace.root.join("services/digits").exists());
    assert!(engine.serve(), "the engine's API comes up again");
    assert_eq!(engine.containers().len(), 1);
    workspace.ok(&["down"]);
    workspace.ok(&["up"]);
    wait("it is gone", || engine.containers().is_empty());
    workspace.ok(&["targets", "detach", "box"]);
    assert_eq!(engine.containers(), [""; 0]);
    workspace.ok(&["down"]);
}
