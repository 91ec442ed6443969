//! Container images: built without a daemon, read by other tools, run by a real engine.

use crate::engine::{CACHE, Engine, podman};
use crate::support::{drisse, library, output};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn image(arguments: &[&str]) -> Command {
    let mut command = drisse(&[&["--output", "json", "image"], arguments].concat());
    // The cache is empty, so ONNX Runtime is named explicitly.
    command.env("XDG_CACHE_HOME", &*CACHE).env("DRISSE_ONNXRUNTIME", library());
    command.env("DRISSE_WORKSPACE", CACHE.join("ws"));
    command
}

fn built(arguments: &[&str]) -> Value {
    let output = image(&[&["build"], arguments].concat()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a tool that must succeed, and returns its stdout.
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn to(&self, transport: &str, name: &str) -> String {
        format!("{transport}:{}", self.path(name).display())
    }
}

#[test]
fn an_image_has_the_date_that_is_given() {
    let folder = Folder::new();
    let build = |name: &str, epoch: &str| {
        let mut command = image(&["build", "examples/digits", "-o", &folder.to("oci-archive", name)]);
        let output = command.env("SOURCE_DATE_EPOCH", epoch).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(build("one.tar", "1700000000"), build("two.tar", "1700000000"));
    let archive = std::fs::read(folder.path("one.tar")).unwrap();
    let date = b"\"created\":\"2023-11-14T22:13:20Z\"";
    assert!(archive.windows(date.len()).any(|window| window == date));
    assert!(build("three.tar", "yesterday").contains("SOURCE_DATE_EPOCH is not a time: `yesterday`"));
}

#[test]
fn an_image_is_the_same_bytes_every_time_and_says_what_it_serves() {
    let folder = Folder::new();
    let one = built(&["examples/digits", "-o", &folder.to("oci-archive", "one.tar")]);
    let other = built(&["examples/digits", "-o", &folder.to("oci-archive", "two.tar")]);
    assert_eq!(one, other);
    let read = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert!(read("one.tar") == read("two.tar"), "the archives differ");
    // A link stays a link, and a pipe stays a pipe.
    std::os::unix::fs::symlink(folder.path("linked.tar"), folder.path("link.tar")).unwrap();
    std::fs::write(folder.path("linked.tar"), "old").unwrap();
    built(&["examples/digits", "-o", &folder.to("oci-archive", "link.tar")]);
    assert!(folder.path("link.tar").is_symlink() && read("linked.tar") == read("one.tar"));
    tool("mkfifo", &[folder.path("pipe").to_str().unwrap()]);
    let pipe = folder.path("pipe");
    let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
    built(&["examples/digits", "-o", &folder.to("oci-archive", "pipe")]);
    assert!(reader.join().unwrap() == read("one.tar"));
    assert_eq!((&one["reference"], &one["model"]["name"]), (&"digits:1".into(), &"digits".into()));
    let runtime = &one["runtime"];
    assert!(
        runtime["packages"]
            .as_array()
            .unwrap()
            .iter()
            .any(|name| { name.as_str().unwrap().starts_with("libc6 ") }),
        "{runtime}"
    );
    let pinned =
        ["examples/digits", "--runtime", runtime["digest"].as_str().unwrap(), "--name", "numbers", "-o"];
    let pinned = built(&[&pinned[..], &[&folder.to("oci", "layout")]].concat());
    assert_eq!((&pinned["runtime"], &pinned["reference"]), (runtime, &"numbers:1".into()));
}

#[test]
fn other_peoples_tools_read_archives_and_layouts_and_find_every_digest_right() {
    if podman().is_none() {
        return;
    }
    let folder = Folder::new();
    let archive = folder.to("oci-archive", "wine.tar");
    let built = built(&["examples/wine", "-o", &archive]);
    let inspected: Value = serde_json::from_str(&tool("skopeo", &["inspect", &archive])).unwrap();
    assert_eq!(inspected["Digest"], built["digest"]);
    assert_eq!(inspected["Created"], drisse_registry::RELEASED);
    assert_eq!(inspected["Labels"]["drisse.model.digest"], built["model"]["digest"]);
    // skopeo checks the digest of each blob that it copies.
    tool("skopeo", &["copy", "-q", &archive, &folder.to("dir", "copied")]);
    let layout = folder.to("oci", "layout");
    for (example, reference) in [("examples/wine", "team/wine:1"), ("examples/digits", "team/digits:1")] {
        self::built(&[example, "-o", &format!("{layout}:{reference}")]);
    }
    // Building the same image again adds no second manifest.
    self::built(&["examples/wine", "-o", &format!("{layout}:team/wine:1")]);
    let index = std::fs::read(folder.path("layout/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{index}");
    let wine = tool("skopeo", &["inspect", "--raw", &format!("{layout}:team/wine:1")]);
    assert_eq!(serde_json::from_str::<Value>(&wine).unwrap()["layers"].as_array().unwrap().len(), 3);
}

#[test]
fn a_container_scores_without_any_privileges_and_does_not_start_without_keys() {
    let Some(engine) = Engine::start() else { return };
    let folder = Folder::new();
    let archive = folder.path("digits.tar");
    built(&["examples/digits", "-o", &folder.to("oci-archive", "digits.tar")]);
    let loaded = engine.run(&["load", "-i", archive.to_str().unwrap()]);
    assert!(loaded.status.success(), "{loaded:?}");
    // Podman's default limits may exceed the host's; then no container starts.
    let limits =
        [("nofile", Resource::Nofile, 1 << 20), ("nproc", Resource::Nproc, 4096)].map(|(name, of, most)| {
            let highest = getrlimit(of).maximum.unwrap_or(most).min(most);
            format!("{name}={highest}:{highest}")
        });
    let confined = [
        "run",
        "--rm",
        "--network",
        "none",
        "--read-only",
        "--cap-drop",
        "all",
        "--ulimit",
        &limits[0],
        "--ulimit",
        &limits[1],
        "--security-opt",
        "no-new-privileges",
        "--pids-limit",
        "100",
    ];
    let closed = engine.run(&[&confined[..], &["digits:1"]].concat());
    let said = String::from_utf8_lossy(&closed.stderr).into_owned();
    assert!(closed.status.code() == Some(1) && said.contains("cannot read keys file"), "{closed:?}");
    assert!(said.contains("--no-auth"), "{said}");
    // With --no-auth it serves; curl connects from inside the container's network namespace.
    let open = engine.run(
        &[&confined[..], &["--detach", "--env", "PORT=8080", "--name", "digits", "digits:1", "--no-auth"]]
            .concat(),
    );
    assert!(open.status.success(), "{open:?}");
    let pid = engine.run(&["inspect", "--format", "{{.State.Pid}}", "digits"]);
    let pid = String::from_utf8(pid.stdout).unwrap().trim().to_owned();
    let sample = Path::new("examples/digits/sample.json");
    let sample = crate::support::root().join(sample).display().to_string();
    let ask = [
        "--target",
        &pid,
        "--net",
        "curl",
        "-s",
        "--retry",
        "50",
        "--retry-connrefused",
        "--fail",
        "--data",
        &format!("@{sample}"),
        "http://127.0.0.1:8080/score",
    ];
    let answer: Value = serde_json::from_str(&tool("nsenter", &ask)).unwrap();
    assert_eq!(answer["label"], serde_json::json!([0]));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(field("Uid:").starts_with("65532"), "{status}");
    assert_eq!((field("CapEff:"), field("NoNewPrivs:")), ("0".repeat(16), "1".to_owned()));
}

#[test]
fn what_cannot_be_built_says_why_and_leaves_nothing() {
    let folder = Folder::new();
    let refused = |arguments: &[&str]| {
        let output = image(&[&["build"], arguments].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        (document["error"].to_string(), document["error"]["hint"].to_string())
    };
    let to = folder.to("oci-archive", "x.tar");
    let unknown = format!("sha256:{}", "0".repeat(64));
    let (why, hint) = refused(&["examples/digits", "--runtime", &unknown, "-o", &to]);
    assert!(why.contains("no runtime layer") && hint.contains("drisse image runtimes"), "{why}");
    let (why, _) = refused(&["README.md", "-o", &to]);
    assert!(why.contains("README.md"), "{why}");
    let (why, _) = refused(&["examples/digits", "--name", "../x", "-o", &to]);
    assert!(why.contains("../x"), "{why}");
    let (why, _) = refused(&["examples/digits", "-o", "oci-archive:/nowhere/x.tar"]);
    assert!(why.contains("cannot write /nowhere/x.tar"), "{why}");
    let (why, _) = refused(&["examples/digits", "--onnxruntime", "/bin/sh", "-o", &to]);
    assert!(why.contains("ONNX Runtime"), "{why}");
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 0);
    let (code, _, said) = output(&["image", "build", "examples/digits", "-o", "tar:x"]);
    assert!(code == 1 && said.contains("oci-archive:FILE"), "{said}");
}
