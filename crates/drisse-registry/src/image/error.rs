//! Errors of building, reading and writing images.

use crate::{InspectError, StoreError};
use std::path::{Path, PathBuf};

/// An error of building, reading or writing an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file system operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was attempted: `read`, `write`, `pack`, `make`, `lock`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A program or library is not a 64-bit little-endian ELF file.
    #[error("{} is not a 64-bit ELF file", path.display())]
    NoElf {
        /// The file.
        path: PathBuf,
    },
    /// A program or library is for an architecture that is not supported, or not the program's.
    #[error("{} is made for another kind of machine (ELF machine {machine})", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// Its `e_machine`.
        machine: u16,
    },
    /// A required library is not installed on this machine.
    #[error("the library `{name}` is not on this machine, and {} needs it", by.display())]
    Library {
        /// The library's name.
        name: String,
        /// The program or library that requires it.
        by: PathBuf,
    },
    /// The model has no files.
    #[error("the model has no files")]
    NoFiles,
    /// The runtime layer was never built on this machine, or was removed.
    #[error("no runtime layer {digest} on this machine")]
    NoRuntime {
        /// The layer's digest.
        digest: String,
    },
    /// A file of a layer changed after the layer's digest was computed.
    #[error("a file of the image changed while it was packed: layer {digest} became {became}")]
    Changed {
        /// The layer's first digest.
        digest: String,
        /// The layer's digest now.
        became: String,
    },
    /// An archive is not a valid image archive.
    #[error("the file is not a valid image archive: {why}")]
    Archive {
        /// What is wrong with the archive.
        why: String,
    },
    /// An image layout does not hold exactly one image of the requested name, or of any name.
    #[error("{} does not hold exactly one image of this name", path.display())]
    Unnamed {
        /// The layout's folder.
        path: PathBuf,
        /// The names of the images in the layout, separated by commas.
        there: String,
    },
    /// The base image and the runtime layer are for different architectures.
    #[error("the base image is for {base}, and the runtime for {runtime}")]
    Base {
        /// The base image's architecture.
        base: String,
        /// The runtime layer's architecture.
        runtime: String,
    },
    /// The model cannot be read.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The store failed.
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

    /// Returns what the user can do next, or `None` if nothing specific is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => crate::disk_hint(source).map(str::to_owned),
            Self::Library { name, .. } => {
                Some(format!("install the package that contains {name}, then run `ldconfig`"))
            }
            Self::NoRuntime { .. } => {
                Some("`drisse image runtimes` lists the layers on this machine".to_owned())
            }
            Self::Unnamed { there, .. } => {
                Some(format!("name one of the images, as in oci:DIR:NAME; the folder has: {there}"))
            }
            Self::Changed { .. } => Some("try again when the file is completely written".to_owned()),
            Self::Inspect(error) => error.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}
