//! `drisse down`, and what commands do with a workspace that is down.

use crate::support::root;
use crate::workspace::{Disk, Workspace, kill};
use drisse_testkit::wait;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

const DIGITS: &str = "examples/digits/digits.onnx";

/// A workspace that serves `digits`.
fn serving() -> Workspace {
    let workspace = Workspace::new();
    workspace.ok(&["up", "--gateway", "127.0.0.1:0"]);
    workspace.ok(&["deploy", DIGITS]);
    workspace
}

fn gateway_answers(status: &serde_json::Value) -> bool {
    TcpStream::connect(status["gateway"]["address"].as_str().unwrap()).is_ok()
}

#[test]
fn only_the_control_plane_of_the_workspace_is_ended_and_not_one_on_another_disk() {
    let disks = [Disk::new("size=16m"), Disk::new("size=16m")];
    let [Some(one), Some(other)] = &disks else {
        assert!(std::env::var_os("CI").is_none(), "CI requires mounting a disk: run as root");
        return;
    };
    // The files of new disks have the same inode numbers.
    let [one, other] = [one, other].map(|disk| Workspace::inside(disk.path()));
    for workspace in [&one, &other] {
        workspace.ok(&["up", "--gateway", "127.0.0.1:0"]);
    }
    let control = other.pid("control");
    one.ok(&["down"]);
    one.ok(&["down"]);
    assert!(control.is_some() && other.pid("control") == control, "{control:?}");
}

#[test]
fn a_workspace_that_is_down_is_read_and_not_started() {
    let workspace = serving();
    let key = workspace.json(&["keys", "digits"]);
    workspace.ok(&["down"]);
    let service = &workspace.json(&["services"])["items"][0];
    assert_eq!((&service["name"], &service["state"]), (&"digits".into(), &"Stopped".into()));
    assert_eq!(workspace.json(&["keys", "digits"]), key);
    for read in [
        &["services", "show", "digits"][..],
        &["models"],
        &["models", "show", "digits"],
        &["operations"],
        &["logs", "digits", "--follow"],
        &["targets"],
        &["models", "trust"],
    ] {
        let ran = workspace.ok(read);
        assert!(ran.stderr.contains("the workspace is down") && !ran.stdout.is_empty(), "{read:?}: {ran:?}");
    }
    for change in [
        &["score", "digits"][..],
        &["rollback", "digits"],
        &["delete", "digits"],
        &["keys", "digits", "--regenerate", "primary"],
        &["models", "register", DIGITS],
        &["models", "verify"],
        &["models", "pull", "oci://127.0.0.1:1/a:1"],
    ] {
        let ran = workspace.run(change);
        assert!(ran.code == 1 && ran.stderr.contains("the workspace is down"), "{change:?}: {ran:?}");
        assert!(ran.stderr.contains("hint: `drisse up` starts it"), "{change:?}: {ran:?}");
    }
    let status = workspace.status();
    assert_eq!((&status["running"], workspace.processes()), (&false.into(), vec![]), "nothing was started");
    workspace.ok(&["deploy", DIGITS]);
    assert_eq!(workspace.json(&["services"])["items"][0]["state"], "Ready", "deploy starts it");
}

#[test]
fn a_control_plane_that_does_not_answer_is_killed_with_all_that_it_started() {
    let workspace = serving();
    let status = workspace.status();
    kill(u32::try_from(status["control"]["pid"].as_u64().unwrap()).unwrap(), "-STOP");
    let silent = std::thread::scope(|scope| {
        let silent = scope.spawn(|| workspace.status());
        workspace.ok(&["down"]);
        silent.join().unwrap()
    });
    assert_eq!((&silent["answers"], &silent["control"]), (&false.into(), &status["control"]));
    assert!(!gateway_answers(&status) && workspace.processes().is_empty());
    assert_eq!(workspace.status()["running"], false);
}

#[test]
fn a_workspace_whose_folder_was_renamed_while_it_ran_is_stopped_and_starts_under_its_new_name() {
    let mut workspace = serving();
    let (old, status) = (workspace.root.clone(), workspace.status());
    workspace.root.set_file_name("renamed");
    std::fs::rename(&old, &workspace.root).unwrap();
    assert_eq!(workspace.status()["control"], status["control"]);
    let refused = workspace.run(&["up"]);
    assert!(refused.code == 1 && refused.stderr.contains("under its earlier name"), "{refused:?}");
    workspace.ok(&["down"]);
    assert!(!gateway_answers(&status));
    workspace.ok(&["up"]);
    wait("the service is ready again", || workspace.run(&["score", "digits"]).code == 0);
}

#[test]
fn what_a_killed_control_plane_left_is_stopped_also_under_another_name() {
    let mut workspace = serving();
    let (old, status) = (workspace.root.clone(), workspace.status());
    kill(u32::try_from(status["control"]["pid"].as_u64().unwrap()).unwrap(), "-9");
    workspace.root.set_file_name("renamed");
    std::fs::rename(&old, &workspace.root).unwrap();
    assert!(gateway_answers(&status));
    workspace.ok(&["down"]);
    assert!(!gateway_answers(&status));
    let line =
        |pid: &str| std::fs::read_to_string(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
    let gateway = status["gateway"]["pid"].to_string();
    assert!(!line(&gateway).contains("--gateway"), "the gateway has ended");
}

#[test]
fn another_user_is_told_whose_workspace_it_is() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let workspace = serving();
    let program = workspace.folder.path().join("drisse");
    std::fs::copy(crate::program(), &program).unwrap();
    let all = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    all(workspace.folder.path());
    all(&program);
    for command in ["down", "status", "services"] {
        let mut stranger = Command::new("setpriv");
        stranger.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        stranger
            .arg(command)
            .current_dir(root())
            .env("DRISSE_WORKSPACE", &workspace.root)
            .env("HOME", "/nonexistent");
        let ran = stranger.output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.code() == Some(1) && said.contains("it belongs to root"), "{command}: {said}");
    }
    assert!(gateway_answers(&workspace.status()));
}
