//! System calls of the control plane and the gateway fail, one after the other.

use super::PART;
use super::known::Known;
use super::strace::{self, Faults};
use crate::proof;
use crate::workspace::Workspace;
use drisse_testkit::wait;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The failing system calls and their errors, as arguments of strace; the quick part has only the first `QUICK`.
const FAULTS: [&str; 7] = [
    "fsync,fdatasync:error=EIO",
    "pwrite64:error=ENOSPC",
    "rename,renameat,renameat2:error=EIO",
    "pwrite64:error=EIO",
    "pwrite64:error=EROFS",
    "linkat:error=EIO",
    "mkdir,mkdirat:error=ENOSPC",
];
const QUICK: usize = 3;

/// The most system calls of one kind that a thread makes for one command.
const MOST: u32 = 12;

/// A command that takes longer than this waits for the disk.
const WAITING: Duration = Duration::from_secs(5);

/// The results of all runs.
#[derive(Default)]
struct Seen {
    /// System calls that failed.
    calls: usize,
    /// Commands that reported a failed call.
    reported: usize,
    /// Commands that succeeded although a call failed.
    done: usize,
}

#[test]
fn a_failed_system_call_is_reported_with_a_hint_and_nothing_acknowledged_is_lost() {
    if !strace::is_there() {
        return;
    }
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    workspace.ok(&["deploy", "examples/digits/digits.onnx"]);
    let mut seen = Seen::default();
    let (faults, most) = if proof::whole() { (FAULTS.len(), MOST) } else { (QUICK, 1) };
    let mut number = 0;
    for fault in &FAULTS[..faults] {
        for command in ["register", "deploy", "update", "keys"] {
            for when in 1..=most {
                number += 1;
                let words = words(&workspace, command, number);
                if one(&workspace, &format!("{fault}:when={when}"), &words, &mut seen) == 0 {
                    break;
                }
            }
        }
    }
    let Seen { calls, reported, done } = seen;
    let claim = "a failed system call (sync, write, rename) is reported with a hint or handled; the same command then \
                 works, and nothing acknowledged is lost";
    let figure = format!("{calls} calls failed: {reported} commands reported it, {done} succeeded anyway");
    proof::holds(PART, claim, figure, "every command", calls > 0 && reported > 0);
}

/// The arguments of a command that changes something else for each `number`.
fn words(workspace: &Workspace, command: &str, number: u32) -> Vec<String> {
    let file = workspace.variant(&format!("v{number}")).display().to_string();
    let words = match command {
        "register" => vec!["models", "register", &file],
        "deploy" => vec!["deploy", &file, "--name", "other"],
        "update" => vec!["update", "digits", &file],
        _ => vec!["keys", "digits", "--regenerate", "primary"],
    };
    words.into_iter().map(str::to_owned).collect()
}

/// Runs a command while system calls fail. Returns how many failed.
fn one(workspace: &Workspace, fault: &str, words: &[String], seen: &mut Seen) -> usize {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let before = Known::of(workspace);
    let pids = ["control", "gateway"].map(|what| workspace.pid(what).unwrap());
    let faults = Faults::start(&pids, fault);
    let mut running = workspace.command(&words);
    let mut running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    // strace counts calls per thread: where each retry uses a new thread, every retry fails, and the command waits and
    // prints what it waits for.
    wait("the end of the command", || running.try_wait().unwrap().is_some() || began.elapsed() >= WAITING);
    let calls = faults.end();
    let output = running.wait_with_output().unwrap();
    let (code, stderr) = (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap());
    let mut next = Known::of(workspace);
    next.models.extend(before.models.clone());
    if words[0] != "keys" {
        next.services.extend(before.services.clone());
    }
    assert_eq!(before.missing(&next, workspace), None, "{fault} {words:?}");
    match code {
        0 => seen.done += usize::from(calls > 0),
        code => {
            let path = workspace.root.display().to_string();
            let named = [&*path, "drisse.db"].iter().any(|file| stderr.contains(file));
            assert!(code <= 2 && named && stderr.contains("\nhint: "), "{fault} {words:?}: {stderr}");
            workspace.ok(&words);
            seen.reported += 1;
        }
    }
    seen.calls += calls;
    calls
}
