//! Attacks by another user of the same machine; and Drisse run by an ordinary user instead of root.

use super::{DIGITS, STRANGER, argument, as_root, below, deployed, every, replica, sockets};
use crate::proof::among_others;
use crate::support::{library, root};
use crate::workspace::{Ran, kill, ran};
use drisse_testkit::wait;
use serde_json::Value;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Files of a process in /proc that other users must not open: proc(5).
const SECRET: [&str; 8] = ["environ", "mem", "maps", "fd", "fdinfo", "cwd", "exe", "root"];

/// A shell script that prints each of its arguments that it can open, list, or (if it is a socket) connect to.
const TRY_ALL: &str = "for path; do
    if [ -S \"$path\" ]; then [ -w \"$path\" ]
    elif [ -d \"$path\" ]; then ls -- \"$path/\"
    else (: < \"$path\") || (: >> \"$path\"); fi > /dev/null 2>&1 && echo \"$path\"
done";

/// A command that runs a program as a user without rights.
fn as_stranger(program: &Path) -> Command {
    let id = STRANGER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(program).stdin(Stdio::null());
    command
}

#[test]
fn another_user_opens_no_file_socket_or_process() {
    let _others = among_others();
    if !as_root("opening every file, as another user") {
        return;
    }
    let (workspace, _service) = deployed();
    // Opens the folders: the files in them must be protected by their own modes.
    for folder in [workspace.folder.path(), &workspace.root] {
        set_permissions(folder, Permissions::from_mode(0o711)).unwrap();
    }
    let mut paths: Vec<_> =
        [&workspace.root, &sockets(&workspace)].into_iter().flat_map(|f| below(f)).collect();
    let pids = workspace.processes().into_iter().map(|(pid, _)| u64::from(pid));
    for pid in pids.chain(workspace.pid("control")) {
        paths.extend(SECRET.iter().map(|name| PathBuf::from(format!("/proc/{pid}/{name}"))));
    }
    let everybodys = workspace.folder.path().join("everybodys");
    std::fs::write(&everybodys, "").unwrap();
    set_permissions(&everybodys, Permissions::from_mode(0o644)).unwrap();
    let mut command = as_stranger(Path::new("sh"));
    command.args(["-c", TRY_ALL, "sh"]).arg(&everybodys).args(&paths);
    let ran = ran(command);
    let mut opened = ran.stdout.lines();
    assert_eq!(opened.next(), everybodys.to_str(), "the script cannot even open a readable file: {ran:?}");
    let claim = "Another user of the machine cannot open any file, socket or process of a workspace";
    every(claim, paths.len(), &opened.collect::<Vec<_>>());
}

/// Another user's process that looks like one of ours.
struct Impostor(Child);

impl Impostor {
    fn new(shell: &Path, flag: &str, value: &str) -> Self {
        let mut command = as_stranger(shell);
        // With only one command, the shell would replace itself by that command.
        command.args(["-p", "-c", "sleep 600; :", "sh", flag, value]).process_group(0);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        // Kills the process group: the shell and its `sleep`.
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn another_users_process_is_never_taken_for_one_of_ours() {
    let _others = among_others();
    if !as_root("processes of another user that look like ours") {
        return;
    }
    let (workspace, _service) = deployed();
    let tag = argument(&replica(&workspace).1, "--replica");
    let id = tag.split('/').next().unwrap();
    let look =
        [("--replica", format!("{id}/digits/1/ffffffffffff")), ("--gateway", format!("{id}/g-ffffffffffff"))];
    // A set-user-ID program such as `su` runs as root, unless the folder is mounted with `nosuid`.
    let su = workspace.folder.path().join("sh");
    std::fs::copy("/bin/sh", &su).unwrap();
    for path in [&*su, workspace.folder.path()] {
        set_permissions(path, Permissions::from_mode(0o4711)).unwrap();
    }
    let mut impostors = look
        .map(|(flag, value)| [Path::new("/bin/sh"), &*su].map(|shell| Impostor::new(shell, flag, &value)));
    for impostor in impostors.as_flattened() {
        let line = format!("/proc/{}/cmdline", impostor.0.id());
        wait("the impostor runs", || std::fs::read_to_string(&line).is_ok_and(|line| line.contains("sleep")));
    }
    kill(u32::try_from(workspace.pid("control").unwrap()).unwrap(), "-9");
    let mut seen = 0;
    wait("the service's replica is found", || {
        let shown = workspace.json(&["services", "show", "digits"]);
        seen = shown["instances"].as_array().map_or(0, Vec::len);
        seen > 0
    });
    let mut wrong = Vec::new();
    if seen != 1 {
        wrong.push(format!("{seen} replicas are shown"));
    }
    workspace.ok(&["down"]);
    for impostor in impostors.as_flattened_mut() {
        if let Some(status) = impostor.0.try_wait().unwrap() {
            wrong.push(format!("the impostor was ended: {status}"));
        }
    }
    let claim =
        "Another user's process with the arguments of a replica or a gateway is neither adopted nor ended";
    every(claim, impostors.as_flattened().len(), &wrong);
}

/// An installation for a user who is not root: copies of program, library and model that the user can read.
struct Ordinary(tempfile::TempDir);

impl Ordinary {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let files = [
            (crate::program(), "drisse"),
            (library(), "libonnxruntime.so"),
            (root().join(DIGITS), "digits.onnx"),
        ];
        for (from, to) in files {
            std::fs::copy(from, path(to)).unwrap();
            set_permissions(path(to), Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::create_dir(path("home")).unwrap();
        chown(path("home"), Some(STRANGER), Some(STRANGER)).unwrap();
        Self(folder)
    }

    fn drisse(&self, arguments: &[&str]) -> Ran {
        let mut command = as_stranger(&self.0.path().join("drisse"));
        command.args(["--output", "json"]).args(arguments).current_dir(self.0.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.0.path().join("home"));
        ran(command)
    }

    fn pids(&self, shown: &Value) -> Vec<u32> {
        let instances = shown["instances"].as_array().unwrap().iter();
        let ids: Vec<_> = instances.map(|instance| instance["id"].as_str().unwrap().to_owned()).collect();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = pids.filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("--replica") && ids.iter().any(|id| line.contains(id.as_str()))
        });
        ours.collect()
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        let down = self.drisse(&["down"]);
        assert!(std::thread::panicking() || down.code == 0, "{down:?}");
    }
}

#[test]
fn an_ordinary_users_replicas_are_found_again_after_kill_9() {
    let _others = among_others();
    if !as_root("a deployment by an ordinary user") {
        return;
    }
    let user = Ordinary::new();
    let deployed = user.drisse(&["deploy", "digits.onnx", "--replicas", "2"]);
    assert_eq!(deployed.code, 0, "{deployed:?}");
    let before = user.pids(&user.drisse(&["services", "show", "digits"]).json());
    let status = user.drisse(&["status"]).json();
    for what in ["control", "gateway"] {
        let pid = status[what]["pid"].as_u64().unwrap();
        let ids = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(ids.contains(&format!("Uid:\t{STRANGER}\t{STRANGER}")), "{ids}");
    }
    kill(u32::try_from(status["control"]["pid"].as_u64().unwrap()).unwrap(), "-9");
    let scored = user.drisse(&["score", "digits"]);
    assert_eq!(scored.code, 0, "{scored:?}");
    let after = user.drisse(&["status"]).json();
    let gateway = after["gateway"]["pid"] == status["gateway"]["pid"];
    let same = before == user.pids(&user.drisse(&["services", "show", "digits"]).json());
    let rolled = user.drisse(&["update", "digits", "--max-wait", "1s"]);
    let checks = [(gateway, "the gateway"), (same, "the replicas"), (rolled.code == 0, "the update")];
    let wrong: Vec<_> = checks.iter().filter(|(good, _)| !good).map(|(_, what)| what).collect();
    let claim = "After kill -9 of the control plane, an ordinary user's gateway and replicas are adopted and can be updated";
    every(claim, before.len() + 2, &wrong);
}
