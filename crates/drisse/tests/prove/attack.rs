//! Attacks on every endpoint and file that SECURITY.md lists, by clients and users without the right to use them.

mod control;
mod files;
mod hostile;
mod http2;
mod keys;
mod memory;
mod models;
mod smuggling;
mod stranger;
mod timing;

use crate::workspace::Workspace;
use drisse_testkit::Stream;
use serde_json::Value;
use std::fmt::Debug;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const PART: &str = "5. Who gets in";

/// The user ID of an account without rights.
const STRANGER: u32 = 65534;

const DIGITS: &str = "examples/digits/digits.onnx";

/// A connection on which nothing arrives for this long is stuck, not slow.
const SILENCE: Duration = Duration::from_secs(30);

/// Writes the row of docs/proof.md for a claim that was tested `tried` times, and fails with `wrong` if it is not
/// empty.
#[track_caller]
fn every<T: Debug>(claim: &str, tried: usize, wrong: &[T]) {
    let figure = if wrong.is_empty() { format!("{tried} of {tried}") } else { format!("failed: {wrong:#?}") };
    crate::proof::holds(PART, claim, figure, "every one", tried > 0 && wrong.is_empty());
}

/// Returns the folder and everything below it.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if found[at].symlink_metadata().unwrap().is_dir() {
            found.extend(std::fs::read_dir(&found[at]).unwrap().map(|entry| entry.unwrap().path()));
        }
        at += 1;
    }
    found
}

/// A valid request body for the digits model.
fn zeros() -> String {
    format!("{{\"data\":[[{}0]]}}", "0,".repeat(63))
}

/// A workspace with the digits model deployed, and the document that `deploy` printed.
fn deployed() -> (Workspace, Value) {
    let workspace = Workspace::new();
    let service = workspace.json(&["deploy", DIGITS]);
    (workspace, service)
}

fn text<'a>(document: &'a Value, name: &str) -> &'a str {
    document[name].as_str().unwrap()
}

/// The `HOST:PORT` of a URL.
fn host(url: &str) -> String {
    url.trim_start_matches("http://").split('/').next().unwrap().to_owned()
}

/// Sends these bytes and returns what arrives until the other side closes the connection.
fn over_tcp(host: &str, bytes: &[u8]) -> String {
    exchange(TcpStream::connect(host).unwrap(), bytes)
}

fn over_unix(path: &Path, bytes: &[u8]) -> String {
    exchange(UnixStream::connect(path).unwrap(), bytes)
}

fn exchange(mut stream: impl Stream, bytes: &[u8]) -> String {
    stream.set_patience(SILENCE).unwrap();
    // A server that refuses the request may close before everything is written; its response can still be read.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let stuck = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    String::from_utf8_lossy(&answer).into_owned()
        + if stuck { "\nHTTP/1.1 000 nothing more arrived" } else { "" }
}

/// The statuses of all responses in this text.
fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}

/// A request that asks the server to close the connection after it.
fn request(method: &str, target: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
         {headers}\r\n{body}"
    )
    .into_bytes()
}

/// The argument that follows a flag in a process's command line.
fn argument(line: &str, flag: &str) -> String {
    line.split(' ').skip_while(|word| *word != flag).nth(1).unwrap().to_owned()
}

/// The process ID and the command line of the service's replica.
fn replica(workspace: &Workspace) -> (u32, String) {
    workspace.processes().into_iter().find(|(_, line)| line.contains("--replica")).unwrap()
}

/// The folder with the workspace's sockets.
fn sockets(workspace: &Workspace) -> PathBuf {
    let admin = argument(&replica(workspace).1, "--unix");
    Path::new(&admin).parent().unwrap().to_owned()
}

/// A counter's value: the sum of its lines.
fn count(metrics: &str, name: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Returns whether the test runs as root, and so can act as another user. Panics in CI if it does not.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
fn as_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI requires root to test {what}");
    if !root {
        eprintln!("not tested, because the tests do not run as root: {what}");
    }
    root
}
