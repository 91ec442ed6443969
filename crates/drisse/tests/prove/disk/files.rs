//! A model of a file system with no more guarantees than POSIX gives: after a power cut, contents and names that were
//! not synced may be lost, independently of each other. It replays recorded system calls.

mod loss;

pub(crate) use loss::{Loss, Tree};

use super::strace::Call;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

type Names = BTreeMap<OsString, usize>;

#[derive(Clone, Debug)]
enum Node {
    File { now: Vec<u8>, synced: Vec<u8>, since: Vec<Change>, position: usize },
    Folder { now: Names, synced: Names },
}

/// A change of a file since it was synced.
#[derive(Clone, Debug)]
enum Change {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

/// The files and folders below one folder, which exists from the beginning.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    below: PathBuf,
    /// The number of changes and syncs so far.
    pub(crate) changes: u64,
    nodes: Vec<Node>,
    /// Running syncs by thread: the node's index, and its state when the sync began, which is what the sync persists.
    syncing: HashMap<u32, (usize, Node)>,
}

impl Files {
    pub(crate) fn new(below: &Path) -> Self {
        let root = Node::Folder { now: Names::new(), synced: Names::new() };
        Self { below: below.to_owned(), changes: 0, nodes: vec![root], syncing: HashMap::new() }
    }

    /// Applies a recorded system call.
    pub(crate) fn apply(&mut self, call: &Call) {
        let sync = matches!(&*call.name, "fsync" | "fdatasync");
        if sync
            && !self.syncing.contains_key(&call.thread)
            && let Some(node) = self.of(call)
        {
            self.syncing.insert(call.thread, (node, self.nodes[node].clone()));
        }
        if !call.ended {
            return;
        }
        if sync {
            if let Some((node, as_it_was)) = self.syncing.remove(&call.thread)
                && call.result == 0
            {
                self.keep(node, as_it_was);
            }
        } else if call.result >= 0 {
            self.change(call);
        }
    }

    /// Records that a sync has succeeded: the node's state at its beginning is now persistent.
    fn keep(&mut self, node: usize, as_it_was: Node) {
        self.changes += 1;
        match (&mut self.nodes[node], as_it_was) {
            (Node::File { synced, since, .. }, Node::File { now, since: covered, .. }) => {
                *synced = now;
                since.drain(..covered.len().min(since.len()));
            }
            (Node::Folder { synced, .. }, Node::Folder { now, .. }) => *synced = now,
            _ => unreachable!("a file cannot become a folder"),
        }
    }

    fn change(&mut self, call: &Call) {
        let path = |nth: usize, base: usize| -> PathBuf {
            let named = Path::new(OsStr::from_bytes(&call.strings[nth]));
            call.descriptors.get(base).map_or(named.to_owned(), |folder| folder.join(named))
        };
        let number = |nth: usize| call.words[nth].parse::<usize>().unwrap();
        let length = usize::try_from(call.result).unwrap();
        match &*call.name {
            "openat" => {
                let path = path(0, 0);
                let there = self.find(&path);
                let node = match there {
                    None if call.words[2].contains("O_CREAT") => {
                        let file = Node::File { now: vec![], synced: vec![], since: vec![], position: 0 };
                        self.add(&path, file)
                    }
                    there => there,
                };
                let Some(node) = node else { return };
                if call.words[2].contains("O_TRUNC") {
                    self.write(node, Change::Length(0));
                }
                if let Node::File { position, now, .. } = &mut self.nodes[node] {
                    *position = if call.words[2].contains("O_APPEND") { now.len() } else { 0 };
                }
            }
            "write" | "writev" | "pwrite64" | "pwritev" => {
                let Some(node) = self.of(call) else { return };
                let mut bytes = call.strings.concat();
                bytes.truncate(length);
                let Node::File { position, .. } = &mut self.nodes[node] else { return };
                let at = match call.name.starts_with('p') {
                    true => number(call.words.len() - 1),
                    false => std::mem::replace(position, *position + bytes.len()),
                };
                self.write(node, Change::Bytes(at, bytes));
            }
            "lseek" => {
                if let Some(Node::File { position, .. }) = self.of(call).map(|node| &mut self.nodes[node]) {
                    *position = length;
                }
            }
            "ftruncate" => {
                if let Some(node) = self.of(call) {
                    self.write(node, Change::Length(number(1)));
                }
            }
            "mkdir" => drop(self.add(&path(0, 9), folder())),
            "mkdirat" => drop(self.add(&path(0, 0), folder())),
            "unlink" | "rmdir" => drop(self.take(&path(0, 9))),
            "unlinkat" => drop(self.take(&path(0, 0))),
            "link" => self.link(&path(0, 9), &path(1, 9)),
            "linkat" => self.link(&path(0, 0), &path(1, 1)),
            "rename" => self.rename(&path(0, 9), &path(1, 9)),
            "renameat" | "renameat2" => self.rename(&path(0, 0), &path(1, 1)),
            other => assert!(self.of(call).is_none(), "{other} is not supported: {call:?}"),
        }
    }

    fn write(&mut self, node: usize, change: Change) {
        if let Node::File { now, since, .. } = &mut self.nodes[node] {
            change.apply(now);
            since.push(change);
            self.changes += 1;
        }
    }

    /// The index of the node that the call's first descriptor refers to.
    fn of(&self, call: &Call) -> Option<usize> {
        self.find(call.descriptors.first()?)
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut node = 0;
        for part in path.strip_prefix(&self.below).ok()?.components() {
            let (Component::Normal(name), Node::Folder { now, .. }) = (part, &self.nodes[node]) else {
                return None;
            };
            node = *now.get(name)?;
        }
        Some(node)
    }

    fn names(&mut self, path: &Path) -> Option<(&mut Names, OsString)> {
        let folder = self.find(path.parent()?)?;
        self.changes += 1;
        match &mut self.nodes[folder] {
            Node::Folder { now, .. } => Some((now, path.file_name()?.to_owned())),
            Node::File { .. } => None,
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> Option<usize> {
        let number = self.nodes.len();
        let (names, name) = self.names(path)?;
        names.insert(name, number);
        self.nodes.push(node);
        Some(number)
    }

    fn take(&mut self, path: &Path) -> Option<usize> {
        let (names, name) = self.names(path)?;
        names.remove(&name)
    }

    fn link(&mut self, from: &Path, to: &Path) {
        if let (Some(node), Some((names, name))) = (self.find(from), self.names(to)) {
            names.insert(name, node);
        }
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        self.link(from, to);
        self.take(from);
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Length(length) => to.resize(*length, 0),
            Self::Bytes(at, bytes) => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
        }
    }
}

fn folder() -> Node {
    Node::Folder { now: Names::new(), synced: Names::new() }
}
