//! A process that dies leaves no core dump, because its memory contains keys.

use super::{every, over_tcp, request, statuses};
use crate::proof::among_others;
use crate::support::{drisse, library, root};
use crate::workspace::{Workspace, kill};
use drisse_testkit::wait;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts a command with unlimited core dumps and aborts it once it is up. Returns whether it dumped core: to a file in
/// `folder`, or to the handler of the system.
fn dumps(command: &Command, stdin: Stdio, folder: &Path, mut up: impl FnMut(u32) -> bool) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]).arg(command.get_program());
    shell.args(command.get_args()).current_dir(folder).env("DRISSE_ONNXRUNTIME", library());
    let mut child = shell.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait(format!("the start of {command:?}"), || {
        assert_eq!(child.try_wait().unwrap(), None, "{command:?} ended");
        up(child.id())
    });
    kill(child.id(), "-ABRT");
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(6), "{command:?}");
    let mut files = std::fs::read_dir(folder).unwrap().flatten();
    status.core_dumped() || files.any(|entry| entry.file_name().to_string_lossy().starts_with("core"))
}

/// The command that a process was started with.
fn command_line(pid: u64) -> Command {
    let line = String::from_utf8(std::fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap();
    drisse(&line.split_terminator('\0').skip(1).collect::<Vec<_>>())
}

fn answers(host: &str) -> bool {
    std::net::TcpStream::connect(host).is_ok()
        && statuses(&over_tcp(host, &request("GET", "/ping", "", ""))) == [200]
}

#[test]
fn no_process_leaves_its_keys_in_a_core_dump() {
    let _others = among_others();
    let workspace = Workspace::new();
    let status = workspace.json(&["up"]);
    let control = command_line(status["control"]["pid"].as_u64().unwrap());
    workspace.ok(&["down"]);

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [admin, pass, routes, log] = ["a", "f", "routes", "log"].map(path);
    let places = ["--admin", &admin, "--pass", &pass, "--routes", &routes, "--log-file", &log];
    let gateway = drisse(&[&["gateway", "--gateway", "none/g-0123456789ab"], &places[..]].concat());
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    let mut dumped = Vec::new();
    if dumps(&gateway, OwnedFd::from(free).into(), folder.path(), |_| answers(&address)) {
        dumped.push("the gateway");
    }
    let up = |pid: u32| workspace.pid("control") == Some(pid.into());
    if dumps(&control, Stdio::null(), folder.path(), up) {
        dumped.push("the control plane");
    }
    let model = root().join(super::DIGITS);
    let serve = drisse(&["serve", model.to_str().unwrap(), "--unix", &path("s")]);
    if dumps(&serve, Stdio::null(), folder.path(), |_| folder.path().join("s").exists()) {
        dumped.push("a scoring server");
    }
    // Whether this machine dumps cores at all. Last, because this core stays in the folder.
    let mut other = Command::new("sh");
    other.args(["-c", "touch up; read x; read y"]);
    let (reader, _writer) = std::io::pipe().unwrap();
    let any = dumps(&other, reader.into(), folder.path(), |_| folder.path().join("up").exists());
    let compare = if any { "another process does" } else { "no process here does" };
    every(&format!("A process of Drisse that is aborted leaves no core dump ({compare})"), 3, &dumped);
}
