//! Limits and environment variables of replicas, and the capacity of targets.

use crate::workspace::{Workspace, kill};
use drisse_testkit::onnx::{Dim, bytes, number, port};
use drisse_testkit::wait;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

const DIGITS: &str = "examples/digits/digits.onnx";

/// Writes a model of one matrix multiplication with `mib` MiB of weights: ModelProto of onnx.proto.
pub(crate) fn large_model(folder: &Path, mib: usize) -> PathBuf {
    let (rows, columns) = (1024, mib as u64 * 256);
    let dims = |size| [Dim::Free("n"), Dim::Fixed(size)];
    let weights =
        [number(1, rows), number(1, columns), number(2, 1), bytes(8, b"w"), bytes(9, &vec![0; mib << 20])];
    let node = [bytes(1, b"x"), bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"MatMul")];
    let graph = [
        bytes(1, &node.concat()),
        bytes(2, b"g"),
        bytes(5, &weights.concat()),
        port(11, "x", &dims(rows)),
        port(12, "y", &dims(columns)),
    ];
    let model = [number(1, 8), bytes(7, &graph.concat()), bytes(8, &number(2, 13))];
    let path = folder.join("large.onnx");
    fs::write(&path, model.concat()).unwrap();
    path
}

/// Whether limits on processes can be enforced on this machine, according to `drisse targets`.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn limited(workspace: &Workspace) -> bool {
    let local = workspace.json(&["targets", "show", "local"]);
    let why = ["cpu_millis", "memory_bytes"].map(|what| local[what]["unenforceable"].clone());
    let able = why.iter().all(Value::is_null);
    if !able {
        eprintln!("not tested: {why:?}");
    }
    able
}

fn refused(workspace: &Workspace, arguments: &[&str], why: &str) {
    let ran = workspace.run(arguments);
    assert!(ran.code == 1 && ran.stderr.contains(why), "{arguments:?}: {ran:?}");
}

#[test]
fn a_process_is_kept_to_its_limits_and_one_that_needs_more_memory_says_so() {
    let workspace = Workspace::new();
    if !limited(&workspace) {
        return;
    }
    let model = large_model(&workspace.root, 100);
    let deploy = ["deploy", model.to_str().unwrap(), "--cpu", "0.5", "--memory", "64MiB"];
    refused(&workspace, &deploy, "ran out of memory and was killed: 64 MiB were not enough");
    let deployed = workspace.json(&["deploy", model.to_str().unwrap(), "--memory", "1GiB"]);
    assert_eq!((&deployed["state"], &deployed["revision"]), (&"Ready".into(), &2.into()));
    let shown = workspace.json(&["services", "show", "large"]);
    let resources = json!({ "cpu_millis": 500, "memory_bytes": 1 << 30 });
    assert_eq!(shown["revisions"][0]["resources"], resources, "an option that is not given keeps its value");
    let process = workspace.replicas("large")[0];
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    assert!(groups.contains("/drisse."), "{groups}");
    let promised = workspace.json(&["targets", "show", "local"]);
    assert_eq!(promised["cpu_millis"]["promised"], 500);
    workspace.ok(&["update", "large", "--cpu", "none", "--memory", "none"]);
    wait("the old one ends", || workspace.replicas("large").len() == 1);
    let process = workspace.replicas("large")[0];
    assert!(!fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap().contains("/drisse."));
}

#[test]
fn more_than_a_target_has_is_refused_before_anything_is_started() {
    let workspace = Workspace::new();
    for (option, why) in [
        (["--cpu", "1000"], "1000 cpu requested, "),
        (["--memory", "900TB"], " GiB requested, "),
        (["--memory", "0"], "expected at least 16 MiB, or `none`"),
        (["--cpu", "0"], "expected at least 0.01 cores, or `none`"),
        (["--cpu", "-1"], "unexpected argument"),
        (["--env", "A=b\nc"], "the value of `A` contains a line break or a NUL character"),
        (["--env", "a b=c"], "`a b` is not a valid name of an environment variable"),
        (["--tag", "a=b\nc"], "tag `a` contains a control character"),
    ] {
        refused(&workspace, &["deploy", DIGITS, option[0], option[1]], why);
    }
    assert_eq!(workspace.json(&["services"])["items"], json!([]));
    assert_eq!(workspace.json(&["models"])["items"], json!([]), "no model was copied for nothing");
    workspace.ok(&["targets", "attach", "local", "--kind", "local", "--max-services", "1"]);
    workspace.ok(&["deploy", DIGITS]);
    let more = ["deploy", DIGITS, "--name", "more"];
    refused(&workspace, &more, "0 services available (1 service of 1 service used by other services)");
    workspace.ok(&["update", "digits", "--max-wait", "1s"]);
    workspace.ok(&["targets", "detach", "local"]);
    workspace.ok(&more);
    refused(&workspace, &["targets", "detach", "local"], "every workspace has it");
    refused(
        &workspace,
        &["targets", "attach", "local", "--kind", "container"],
        "a target `local` of kind local",
    );
    let socket = ["targets", "attach", "other", "--kind", "container", "--socket", "/nonexistent.sock"];
    refused(&workspace, &socket, "no container engine answers on /nonexistent.sock");
}

#[test]
fn the_environment_reaches_the_server_and_its_secrets_appear_nowhere_else() {
    let workspace = Workspace::new();
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("secrets");
    fs::write(&secrets, "# of the test\n\nTOKEN=a secret=\n").unwrap();
    let secrets = ["--secret-env", secrets.to_str().unwrap()];
    let deploy = [&["deploy", DIGITS, "--env", "A=1", "--env", "B=two words"][..], &secrets].concat();
    workspace.ok(&deploy);
    let variables = || {
        let process = workspace.replicas("digits")[0];
        let all = fs::read_to_string(format!("/proc/{process}/environ")).unwrap();
        all.split('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    for wanted in ["A=1", "B=two words", "TOKEN=a secret="] {
        assert!(variables().iter().any(|variable| variable == wanted), "{wanted}: {:?}", variables());
    }
    let shown = workspace.json(&["services", "show", "digits"]);
    let resources = json!({ "env": { "A": "1", "B": "two words" }, "secret_env": { "TOKEN": "***" } });
    assert_eq!(shown["revisions"][0]["resources"], resources);
    let shown = [workspace.ok(&["services", "show", "digits"]).stdout, shown.to_string()].concat();
    let lines: String = workspace.processes().into_iter().map(|(_, line)| line).collect();
    let logs = fs::read_to_string(workspace.root.join("logs/control.log")).unwrap();
    assert!(![shown, lines, logs].iter().any(|text| text.contains("a secret")));
    assert_eq!(workspace.json(&deploy)["revision"], 1, "the same again changes nothing");
    workspace.ok(&["update", "digits", "--no-env"]);
    wait("the old one ends", || workspace.replicas("digits").len() == 1);
    assert!(variables().iter().any(|variable| variable == "TOKEN=a secret="));
    assert!(!variables().iter().any(|variable| variable == "A=1"));
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, "fine=1\nhush\n").unwrap();
    let ran = workspace.run(&["update", "digits", "--secret-env", wrong.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.stderr.contains("line 2 of ") && !ran.stderr.contains("hush"), "{ran:?}");
    workspace.ok(&["delete", "digits"]);
    workspace.ok(&["down"]);
    let kept = fs::read(workspace.root.join("drisse.db")).unwrap();
    assert!(!kept.windows(8).any(|bytes| bytes == b"a secret"), "operations are remembered without secrets");
}

#[test]
fn a_replica_that_is_not_to_be_restarted_stays_dead_until_it_is_deployed_again() {
    let workspace = Workspace::new();
    workspace.ok(&["deploy", DIGITS, "--restart", "never", "--replicas", "2"]);
    let before = workspace.replicas("digits");
    kill(before[0], "-9");
    wait("it is Degraded", || workspace.json(&["services", "show", "digits"])["state"] == "Degraded");
    assert_eq!(workspace.replicas("digits"), before[1..]);
    let again = workspace.json(&["deploy", DIGITS]);
    assert_eq!((&again["revision"], &again["state"]), (&2.into(), &"Ready".into()), "{again}");
    kill(workspace.replicas("digits")[0], "-9");
    workspace.ok(&["update", "digits", "--restart", "always"]);
    wait("both are ready", || workspace.json(&["services", "show", "digits"])["ready"] == 2);
}
