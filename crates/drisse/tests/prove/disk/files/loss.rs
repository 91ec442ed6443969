//! Computes what a power cut leaves of a file system.

use super::{Change, Files, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The unit that a disk writes atomically, in bytes.
const SECTOR: usize = 512;

/// What is lost in a power cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// Everything that was not synced.
    All,
    /// Contents that were not synced: the files exist, but are old or filled with zeros.
    Contents,
    /// A random part of what was not synced, for each sector and each name independently. The number is the seed.
    Some(u64),
}

/// Files with their contents, and folders (`None`), by path.
pub(crate) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Files {
    /// Returns the contents of the disk if the power is cut now.
    pub(crate) fn after(&self, loss: Loss) -> Tree {
        let mut tree = Tree::new();
        let seed = match loss {
            Loss::Some(seed) => seed,
            Loss::All | Loss::Contents => 0,
        };
        self.lay(0, Path::new(""), loss, &mut Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), &mut tree);
        tree
    }

    fn lay(&self, node: usize, at: &Path, loss: Loss, dice: &mut Dice, tree: &mut Tree) {
        match &self.nodes[node] {
            Node::File { now, synced, since, .. } => {
                let bytes = match loss {
                    Loss::All => synced.clone(),
                    Loss::Contents if dice.throw() => synced.clone(),
                    Loss::Contents => {
                        let mut zeros = synced.clone();
                        zeros.resize(now.len(), 0);
                        zeros
                    }
                    Loss::Some(_) => since.iter().fold(synced.clone(), |mut bytes, change| {
                        change.some(dice, &mut bytes);
                        bytes
                    }),
                };
                tree.insert(at.to_owned(), Some(bytes));
            }
            Node::Folder { now, synced } => {
                if !at.as_os_str().is_empty() {
                    tree.insert(at.to_owned(), None);
                }
                for name in now.keys().chain(synced.keys()).collect::<BTreeSet<_>>() {
                    let (new, old) = (now.get(name), synced.get(name));
                    let chosen = match loss {
                        Loss::All => old,
                        Loss::Contents => new,
                        Loss::Some(_) if dice.throw() => new,
                        Loss::Some(_) => old,
                    };
                    if let Some(&node) = chosen {
                        self.lay(node, &at.join(name), loss, dice, tree);
                    }
                }
            }
        }
    }
}

impl Change {
    /// Applies a random part of the change.
    fn some(&self, dice: &mut Dice, to: &mut Vec<u8>) {
        match self {
            Self::Length(_) => {
                if dice.throw() {
                    self.apply(to);
                }
            }
            Self::Bytes(at, bytes) => {
                let mut at = *at;
                let mut left = &bytes[..];
                while !left.is_empty() {
                    let (sector, rest) = left.split_at(left.len().min(SECTOR - at % SECTOR));
                    if dice.throw() {
                        Self::Bytes(at, sector.to_vec()).apply(to);
                    }
                    (at, left) = (at + sector.len(), rest);
                }
            }
        }
    }
}

/// A random number generator (xorshift64): the same seed gives the same results.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 63 == 1
    }
}
