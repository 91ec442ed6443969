//! Why an image cannot be built.

use crate::{InspectError, StoreError};
use std::path::{Path, PathBuf};

/// Why an image cannot be built or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A program or library of another format.
    #[error("{} is no 64-bit ELF file", path.display())]
    NoElf {
        /// Which.
        path: PathBuf,
    },
    /// A program or library of another machine.
    #[error("{} is made for another kind of machine (ELF machine {machine})", path.display())]
    Machine {
        /// Which.
        path: PathBuf,
        /// Which kind.
        machine: u16,
    },
    /// A library that is not on this machine.
    #[error("the library `{name}` is not on this machine, and {} needs it", by.display())]
    Library {
        /// Its name.
        name: String,
        /// Who asks for it.
        by: PathBuf,
    },
    /// A model without files.
    #[error("the model has no files")]
    NoFiles,
    /// A runtime layer that was never built here, or was removed.
    #[error("no runtime layer {digest} on this machine")]
    NoRuntime {
        /// Which.
        digest: String,
    },
    /// A file that is not what it was when it was measured.
    #[error("a file of the image changed while it was packed: layer {digest} became {became}")]
    Changed {
        /// Which layer.
        digest: String,
        /// What it is now.
        became: String,
    },
    /// An archive that is no image's.
    #[error("it is no archive of an image: {why}")]
    Archive {
        /// What is wrong.
        why: String,
    },
    /// A folder without the image that is named, or with several where none is.
    #[error("no one image of this name is in {}", path.display())]
    Unnamed {
        /// Which.
        path: PathBuf,
        /// The names there are.
        there: String,
    },
    /// A base image of another kind of machine.
    #[error("the base image is for {base}, and the runtime for {runtime}")]
    Base {
        /// The base's kind.
        base: String,
        /// The runtime's.
        runtime: String,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The store cannot do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageError {
    pub(super) fn io(what: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    pub(super) fn machine(path: &Path, machine: u16) -> Self {
        Self::Machine { path: path.to_owned(), machine }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => crate::disk_hint(source).map(str::to_owned),
            Self::Library { name, .. } => {
                Some(format!("install the package that has {name}, then run `ldconfig`"))
            }
            Self::NoRuntime { .. } => Some("`drisse image runtimes` lists those that are".to_owned()),
            Self::Unnamed { there, .. } => Some(format!("name one, as in oci:DIR:NAME; there is {there}")),
            Self::Changed { .. } => Some("try again once the file is written".to_owned()),
            Self::Inspect(error) => error.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}
