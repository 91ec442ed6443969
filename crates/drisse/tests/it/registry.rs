//! Pushes models and images to a real registry, and pulls them.

use crate::engine::CACHE;
use crate::limits::large_model;
use crate::workspace::{Disk, Ran, Workspace, ran};
use drisse_testkit::wait;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tempfile::TempDir;

const DIGITS: &str = "examples/digits/digits.onnx";

/// The registry that `cargo xtask test` unpacked; required in CI.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn program() -> Option<String> {
    let named = std::env::var("DRISSE_REGISTRY").ok();
    if named.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI needs a registry: `cargo xtask test` unpacks Debian's");
        eprintln!("not tested: DRISSE_REGISTRY names no docker-registry");
    }
    named
}

/// A running registry; killed when dropped.
pub(crate) struct Registry {
    child: Child,
    address: String,
    folder: TempDir,
}

impl Registry {
    pub(crate) fn start() -> Option<Self> {
        Self::with(|_, _| String::new())
    }

    /// Starts a registry with extra configuration: lines of the `http` section first, other sections after them.
    fn with(more: impl FnOnce(&Path, &str) -> String) -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        let address = crate::workspace::own_address();
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp:\n  addr: {address}\n{}",
            data.display(),
            more(folder.path(), address.split(':').next().unwrap())
        );
        let configuration = folder.path().join("config.yml");
        fs::write(&configuration, text).unwrap();
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait("an answer of the registry", || TcpStream::connect(&address).is_ok());
        Some(Self { child, address, folder })
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A workspace with a cache of its own.
pub(crate) struct User {
    pub(crate) workspace: Workspace,
    pub(crate) cache: TempDir,
}

impl User {
    pub(crate) fn new() -> Self {
        Self { workspace: Workspace::new(), cache: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.workspace.command(arguments);
        command.env("XDG_CACHE_HOME", self.cache.path()).env("DRISSE_ONNXRUNTIME", crate::support::library());
        // The logins of the user who runs the tests must not be used.
        command.env("HOME", self.cache.path()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_RUNTIME_DIR");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments))
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[&["--output", "json"], arguments].concat());
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    pub(crate) fn refused(&self, arguments: &[&str], why: &str) {
        let ran = self.run(arguments);
        assert!(ran.code == 1 && ran.stderr.contains(why), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn a_model_comes_back_from_a_registry_with_the_digests_it_went_with() {
    let Some(registry) = Registry::start() else { return };
    let (one, other) = (User::new(), User::new());
    let registered = one.json(&["models", "register", DIGITS]);
    let reference = registry.reference("team/digits");
    let pushed = one.json(&["models", "push", "digits", &reference]);
    assert_eq!(pushed["reference"], format!("{reference}:1"), "the tag is the version");
    assert_eq!(pushed["digest"], registered["manifest_digest"]);
    assert!(pushed["sent"].as_u64() > Some(10_000) && pushed["there"] == 0, "{pushed}");
    let again = one.json(&["models", "push", "digits", &format!("{reference}:stable")]);
    assert_eq!((&again["sent"], &again["there"]), (&0.into(), &pushed["sent"]), "nothing is sent again");
    let elsewhere = one.json(&["models", "push", "digits:1", &registry.reference("another/place:x")]);
    assert_eq!(elsewhere["sent"], 0, "it is mounted from the other repository");

    let pulled = other.json(&["models", "pull", &format!("{reference}:stable")]);
    for what in ["name", "digest", "manifest_digest", "signature", "framework"] {
        assert_eq!(pulled[what], registered[what], "{what}");
    }
    other.json(&["models", "verify"]);
    let by_digest = format!("{reference}@{}", pushed["digest"].as_str().unwrap());
    let named = other.json(&["models", "pull", &by_digest, "--name", "numbers"]);
    assert_eq!((&named["name"], &named["version"]), (&"numbers".into(), &1.into()));
    assert_eq!(other.json(&["models", "pull", &by_digest])["version"], 1, "it is there already");
    let deployed = other.json(&["deploy", &format!("{reference}:1"), "--name", "d"]);
    assert_eq!((&deployed["model"], &deployed["answer"]["label"]), (&"digits:1".into(), &json!([0])));
    other.refused(&["models", "pull", &registry.reference("nothing:1")], "there is no manifest `1` in ");
    let pulls = other.cache.path().join("drisse/pulls");
    assert_eq!(fs::read_dir(pulls).unwrap().count(), 0, "nothing is left of what was pulled");
}

#[test]
fn images_go_to_registries_and_others_are_put_on_bases_from_there() {
    let Some(registry) = Registry::start() else { return };
    let user = User::new();
    let image = |arguments: &[&str]| {
        let mut command = user.command(&[&["--output", "json", "image"], arguments].concat());
        // The runtime layer is built once for all tests.
        command.env("XDG_CACHE_HOME", &*CACHE);
        let ran = ran(command);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let to = |name: &str| format!("docker://{}/{name}", registry.address);
    let built = image(&["build", "examples/digits", "-o", &to("images/digits:1")]);
    let manifest = |name: &str| {
        let mut skopeo = Command::new("skopeo");
        let output = skopeo.args(["inspect", "--raw", "--tls-verify=false", &to(name)]).output();
        output.ok().map(|output| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    };
    let Some(pushed) = manifest("images/digits:1") else { return };
    assert!(pushed["layers"].as_array().unwrap().len() >= 2, "{pushed}");
    let archive = user.cache.path().join("image.tar");
    let archive = format!("oci-archive:{}", archive.display());
    image(&["build", "examples/wine", "-o", &archive]);
    let second = image(&["push", &archive, &to("images/wine:1")]);
    let runtime = built["runtime"]["size"].as_u64();
    assert!(second["there"].as_u64() >= runtime, "the runtime is there already: {second}");
    let layout = user.cache.path().join("based");
    let layout = format!("oci:{}", layout.display());
    image(&["build", "examples/digits", "--base", &to("images/wine:1"), "-o", &layout]);
    image(&["push", &layout, &to("images/based:1")]);
    let untagged = image(&["push", &layout, &to("images/untagged")]);
    assert_eq!(manifest("images/untagged:latest"), manifest("images/based:1"), "{untagged}");
    let based = manifest("images/based:1").unwrap();
    let base = manifest("images/wine:1").unwrap();
    let layers = |manifest: &Value| manifest["layers"].as_array().unwrap().clone();
    assert_eq!(layers(&based)[..layers(&base).len()], layers(&base)[..], "the base's layers come first");
    user.refused(&["models", "pull", &to("images/based:1")], "it is a container image");
}

#[test]
fn a_missing_login_is_an_error_and_a_login_is_read_from_the_file_of_podman() {
    let auth = |folder: &Path, _: &str| {
        let file = folder.join("htpasswd");
        // bcrypt of `secret`.
        fs::write(&file, "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n").unwrap();
        format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", file.display())
    };
    let Some(registry) = Registry::with(auth) else { return };
    let user = User::new();
    user.json(&["models", "register", DIGITS]);
    let reference = registry.reference("digits");
    let push = ["models", "push", "digits", &*reference];
    user.refused(&push, "it requires a login, and there are no credentials for it");
    // base64 of a user and a password.
    let login = |auth: &str| {
        let folder = user.cache.path().join(".config/containers");
        fs::create_dir_all(&folder).unwrap();
        let file = json!({ "auths": { registry.address.clone(): { "auth": auth } } });
        fs::write(folder.join("auth.json"), file.to_string()).unwrap();
    };
    login("dXNlcjp3cm9uZw==");
    user.refused(&push, "it does not accept the credentials");
    login("dXNlcjpzZWNyZXQ=");
    user.json(&push);
    assert_eq!(user.json(&["models", "pull", &format!("{reference}:1")])["version"], 1);
    let helper = user.cache.path().join("docker-credential-test");
    fs::write(&helper, "#!/bin/sh\nread host; echo '{\"Username\": \"user\", \"Secret\": \"secret\"}'\n")
        .unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = json!({ "credHelpers": { registry.address.clone(): "test" } }).to_string();
    fs::write(user.cache.path().join(".config/containers/auth.json"), file).unwrap();
    let mut command = user.command(&push);
    let path = format!("{}:{}", user.cache.path().display(), std::env::var("PATH").unwrap());
    command.env("PATH", path);
    assert_eq!(ran(command).code, 0);
}

#[test]
fn a_certificate_of_an_own_authority_is_trusted_where_it_is_named() {
    let tls = |folder: &Path, host: &str| {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        format!("  tls: {{certificate: {}, key: {}}}\n", file("cert.pem"), file("key.pem"))
    };
    let Some(registry) = Registry::with(tls) else { return };
    let user = User::new();
    user.json(&["models", "register", DIGITS]);
    let reference = registry.reference("digits");
    let push = ["models", "push", "digits", &*reference];
    user.refused(&push, "certificate");
    let authority = registry.folder.path().join("cert.pem");
    let authority = authority.to_str().unwrap();
    user.json(&[&push[..], &["--registry-ca", authority]].concat());
    let pull = ["models", "pull", &format!("{reference}:1"), "--registry-ca"];
    assert_eq!(user.json(&[&pull[..], &[authority]].concat())["version"], 1);
    let none = user.cache.path().join("none.pem");
    fs::write(&none, "nothing\n").unwrap();
    user.refused(&[&pull[..], &[none.to_str().unwrap()]].concat(), "the file contains none");
}

/// A proxy that forwards `each` bytes of answers per connection, then closes the connection or stalls.
struct Between {
    address: String,
    forwarded: Arc<AtomicU64>,
}

impl Between {
    fn start(upstream: &str, each: u64, holds: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let forwarded = Arc::new(AtomicU64::new(0));
        let (upstream, counted) = (upstream.to_owned(), Arc::clone(&forwarded));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&upstream).unwrap();
                let (mut to_server, mut from_client) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || _ = std::io::copy(&mut from_client, &mut to_server));
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || {
                    let (mut from, mut to, mut left) = (server, client, each);
                    let mut buffer = vec![0; 64 << 10];
                    while left > 0 {
                        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        let Ok(count @ 1..) = from.read(&mut buffer[..most]) else { break };
                        if to.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                        left -= count as u64;
                        counted.fetch_add(count as u64, SeqCst);
                    }
                    if holds && left == 0 {
                        // Wait until the client closes the connection.
                        let _ = to.read(&mut buffer);
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { address, forwarded }
    }

    fn reference(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }
}

#[test]
fn a_pull_that_is_cut_or_killed_goes_on_where_it_was() {
    let Some(registry) = Registry::start() else { return };
    let (one, other) = (User::new(), User::new());
    let model = large_model(one.cache.path(), 24);
    one.json(&["models", "register", model.to_str().unwrap()]);
    one.json(&["models", "push", "large", &registry.reference("large")]);
    let size = 24 << 20;

    // Every connection is cut after 7 MiB.
    let cut = Between::start(&registry.address, 7 << 20, false);
    let pulled = other.run(&["models", "pull", &cut.reference("large:1"), "--name", "cut"]);
    assert!(pulled.code == 0 && pulled.stderr.contains("continuing from 6 of 24 MiB"), "{pulled:?}");
    let forwarded = cut.forwarded.load(SeqCst);
    assert!((size..size + (2 << 20)).contains(&forwarded), "{forwarded} bytes came");

    // The connection stalls after 7 MiB, and the pulling process is killed.
    let third = User::new();
    let held = Between::start(&registry.address, 7 << 20, true);
    let mut command = third.command(&["models", "pull", &held.reference("large:1")]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let part = || {
        let pulls = fs::read_dir(third.cache.path().join("drisse/pulls")).into_iter().flatten().flatten();
        let parts =
            pulls.filter_map(|pull| fs::read_dir(pull.path().join("partial")).ok()).flatten().flatten();
        parts.filter_map(|part| Some(part.metadata().ok()?.len())).max().unwrap_or(0)
    };
    wait("7 MiB came", || part() > 6 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let rest = Between::start(&registry.address, u64::MAX, false);
    let pulled = third.json(&["models", "pull", &rest.reference("large:1")]);
    assert_eq!(pulled["digest"], one.json(&["models", "show", "large"])["digest"]);
    let forwarded = rest.forwarded.load(SeqCst);
    assert!(forwarded < size - (6 << 20), "{forwarded} bytes came of what was left");
}

#[test]
fn onnx_runtime_leaves_nothing_of_its_own_in_the_cache_folder() {
    let user = User::new();
    user.json(&["deploy", DIGITS]);
    let left = fs::read_dir(user.cache.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["drisse"]);
}

#[test]
fn a_pull_onto_a_full_disk_is_an_error_and_resumes_once_there_is_space() {
    let Some(registry) = Registry::start() else { return };
    let Some(disk) = Disk::new("size=12m") else {
        assert!(std::env::var_os("CI").is_none(), "a disk of its own is needed here: run as root");
        return;
    };
    let user = User::new();
    let model = large_model(user.cache.path(), 16);
    user.json(&["models", "register", model.to_str().unwrap()]);
    let reference = registry.reference("large:1");
    user.json(&["models", "push", "large", &reference]);
    let cache = tempfile::tempdir_in(disk.path()).unwrap();
    let poor = User { workspace: Workspace::inside(disk.path()), cache };
    poor.refused(&["models", "pull", &reference], "hint: free some room on that disk");
    disk.grow("size=100m");
    assert_eq!(poor.json(&["models"])["items"], json!([]));
    assert_eq!(poor.json(&["models", "pull", &reference])["name"], "large");
    poor.json(&["models", "verify"]);
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn the_store_is_read_as_from_any_registry() {
    let (one, other) = (User::new(), User::new());
    let address = crate::workspace::own_address().replace(":4790", ":4791");
    one.json(&["models", "register", DIGITS]);
    one.json(&["models", "register", "examples/wine", "--name", "digits"]);
    let (key, public) = crate::signing::keys(one.cache.path(), "key");
    one.json(&["models", "sign", "digits:1", "--key", &key]);
    assert_eq!(one.json(&["up", "--registry", &address])["registry"], address);
    other.json(&["models", "trust", &public]);
    let pulled = other.json(&["models", "pull", &format!("oci://{address}/digits:1")]);
    let shown = one.json(&["models", "show", "digits:1"]);
    assert_eq!(pulled["manifest_digest"], shown["manifest_digest"], "its signature came along");
    other.refused(&["models", "pull", &format!("oci://{address}/digits:latest")], "the model is not signed");
    other.refused(&["models", "pull", &format!("oci://{address}/digits:3")], "there is no manifest `3`");
    one.refused(&["up", "--registry", "0.0.0.0:4791"], "other machines could read all models");
    let Ok(conformance) = std::env::var("DRISSE_OCI_CONFORMANCE") else {
        assert!(std::env::var_os("CI").is_none(), "CI needs OCI's tests: `cargo xtask test` builds them");
        eprintln!("not tested: DRISSE_OCI_CONFORMANCE names no program");
        return;
    };
    let package = shown["manifest_digest"].as_str().unwrap();
    let manifest = fs::read(one.workspace.root.join("store/blobs/sha256").join(&package[7..])).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter().map(|layer| layer["digest"].as_str().unwrap());
    let blobs = layers.collect::<Vec<_>>().join(" ");
    let mut command = Command::new(conformance);
    command.current_dir(one.cache.path()).env("OCI_REGISTRY", &address).env("OCI_REPO1", "digits");
    for (name, value) in [
        ("TLS", "disabled"),
        ("VERSION", "1.1"),
        ("API_PUSH", "false"),
        ("API_BLOBS_DELETE", "false"),
        ("API_MANIFESTS_DELETE", "false"),
        ("API_TAGS_DELETE", "false"),
        ("RO_DATA_TAGS", "1 2 latest"),
        ("RO_DATA_MANIFESTS", package),
        ("RO_DATA_BLOBS", &blobs),
        ("RO_DATA_REFERRERS", package),
    ] {
        command.env(format!("OCI_{name}"), value);
    }
    let ran = ran(command);
    assert!(ran.stdout.contains("OCI Conformance Result: Pass"), "{ran:?}");
    one.json(&["up", "--no-registry"]);
    other.refused(&["models", "pull", &format!("oci://{address}/digits:1")], "Connection refused");
}
