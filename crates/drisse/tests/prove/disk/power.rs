//! Power cuts at any moment: computes from recorded system calls what the disk then contains, and starts the programs
//! on it.

use super::files::{Files, Loss, Tree};
use super::known::Known;
use super::strace::{self, Call};
use super::{PART, models};
use crate::proof;
use crate::workspace::Workspace;
use drisse_testkit::wait;
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

/// The number of disks that the quick part tries.
const QUICK: usize = 24;

/// The number of disks that are tried in parallel; more than there are cores, because the programs mostly wait.
const TOGETHER: usize = 4;

/// The acknowledged states in order of time, each with its beginning in microseconds since 1970.
type Moments = Vec<(u64, Known)>;

/// A disk after a power cut.
struct State {
    name: String,
    tree: Tree,
    /// The index of the state that was acknowledged before the power cut.
    moment: usize,
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    if !strace::is_there() {
        return;
    }
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    let (trace, moments) = record(&workspace);
    let below = workspace.folder.path().canonicalize().unwrap();
    let (tried, wrong) = tried(&moments, |disks| states(&below, &trace, &moments, disks));
    let claim =
        "after a power cut, everything acknowledged is there, nothing is incomplete, and services answer";
    let figure = match wrong.first() {
        None => format!("{tried} of {tried} disks"),
        Some(first) => format!("{} of {tried} disks fail; {first}", wrong.len()),
    };
    proof::holds(PART, claim, figure, "all", wrong.is_empty());
}

/// Tries the disks that `make` sends, several in parallel. Returns how many there were, and what was wrong.
fn tried(moments: &Moments, make: impl FnOnce(&SyncSender<State>)) -> (usize, Vec<String>) {
    let (sender, receiver) = sync_channel::<State>(TOGETHER);
    let (receiver, seen) = (Mutex::new(receiver), Mutex::new((0, Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                let next = || receiver.lock().unwrap().recv();
                while let Ok(state) = next() {
                    let fault = fault(&state, moments);
                    let mut seen = seen.lock().unwrap();
                    seen.0 += 1;
                    seen.1.extend(fault.map(|fault| format!("{}: {fault}", state.name)));
                }
            });
        }
        make(&sender);
        drop(sender);
    });
    seen.into_inner().unwrap()
}

/// Runs the commands of a workspace's life while strace records the control plane and its processes. Returns the trace.
fn record(workspace: &Workspace) -> (PathBuf, Moments) {
    let trace = workspace.folder.path().join("trace");
    let mut up = strace::recorded(&workspace.command(&["up"]), &trace).spawn().unwrap();
    wait("the control plane starts", || workspace.pid("control").is_some());
    let mut moments = vec![(0, Known::default())];
    for command in life(workspace) {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        workspace.ok(&words);
        let ended = now();
        moments.push((ended, Known::of(workspace)));
    }
    workspace.ok(&["down"]);
    assert!(up.wait().unwrap().success());
    (trace, moments)
}

/// The commands of a workspace's life.
fn life(workspace: &Workspace) -> Vec<Vec<String>> {
    let large = models::large(workspace, 300_000);
    let folder = models::split(workspace);
    let path = |path: &Path| path.display().to_string();
    let commands: [&[&str]; 9] = [
        &["models", "register", &path(&large), "--name", "large"],
        &["deploy", "examples/digits/digits.onnx"],
        &["models", "register", &path(&folder), "--name", "split"],
        &["keys", "digits", "--regenerate", "primary"],
        &["deploy", &path(&large), "--name", "second"],
        &["update", "digits", &path(&large), "--max-wait", "2s"],
        &["delete", "second"],
        &["models", "delete", "split"],
        &["models", "register", &path(&folder), "--name", "split"],
    ];
    commands.iter().map(|words| words.iter().map(|word| (*word).to_owned()).collect()).collect()
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// Sends the disks after a power cut before each system call that makes a difference; in the quick part, some of them.
fn states(below: &Path, trace: &Path, moments: &Moments, disks: &SyncSender<State>) {
    let calls = strace::calls(trace);
    // A call belongs to the last state that was acknowledged before the call began.
    let moment = |call: &Call| moments.iter().rposition(|(at, _)| *at < call.at).unwrap();
    let mut files = Files::new(below);
    // The calls before which a power cut leaves something else than before the preceding call.
    let mut cuts = Vec::new();
    let mut before = (0, usize::MAX);
    for (nth, call) in calls.iter().enumerate() {
        let here = (files.changes, moment(call));
        if here != std::mem::replace(&mut before, here) {
            cuts.push(nth);
        }
        files.apply(call);
    }
    let last = |of: usize| cuts.iter().rev().find(|&&nth| moment(&calls[nth]) == of).copied();
    let mut chosen: BTreeMap<usize, Vec<Loss>> = BTreeMap::new();
    if proof::whole() {
        let all = |nth: usize| (nth, vec![Loss::All, Loss::Contents, Loss::Some(nth as u64)]);
        chosen.extend(cuts.iter().map(|&nth| all(nth)));
    } else {
        // The last call of each acknowledged state, and some calls between.
        chosen.extend((0..moments.len()).filter_map(last).map(|nth| (nth, vec![Loss::All])));
        let step = cuts.len() / (QUICK - chosen.len());
        for (number, &nth) in cuts.iter().step_by(step.max(1)).enumerate() {
            let loss = [Loss::Some(nth as u64), Loss::Contents][number % 2];
            chosen.entry(nth).or_default().push(loss);
        }
    }
    let mut files = Files::new(below);
    let mut seen = HashSet::new();
    for (nth, call) in calls.iter().enumerate() {
        for &loss in chosen.get(&nth).into_iter().flatten() {
            let tree: Tree = files.after(loss).into_iter().filter(|(path, _)| counts(path)).collect();
            let mut hasher = DefaultHasher::new();
            (&tree, moment(call)).hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                let name = format!("call {nth} ({}), {loss:?}", call.name);
                disks.send(State { name, tree, moment: moment(call) }).unwrap();
            }
        }
        files.apply(call);
    }
}

/// Returns whether a file matters: logs do not, and SQLite rebuilds `drisse.db-shm`.
fn counts(path: &Path) -> bool {
    path.starts_with("ws")
        && !path.components().any(|part| part.as_os_str() == "logs")
        && !path.ends_with("drisse.db-shm")
}

/// Starts the programs on a disk and returns what is wrong, if anything is.
fn fault(state: &State, moments: &Moments) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in &state.tree {
        let path = folder.path().join(path);
        match content {
            None => std::fs::create_dir_all(&path).unwrap(),
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
        }
    }
    let before = &moments[state.moment].1;
    let next = moments.get(state.moment + 1).map_or(before, |(_, next)| next);
    before.missing(next, &Workspace::inside(folder.path()))
}
