//! Errors of inspecting a model file and of the store, with hints that say what to do next.

use std::path::PathBuf;

/// An error of opening or inspecting a model file.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file has another format.
    #[error("{} is {what}, not an ONNX model", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// The format that was recognized, with its article: `a PyTorch file`.
        what: String,
        /// How to convert the file to ONNX.
        hint: String,
    },
    /// The file starts as an ONNX model and ends early.
    #[error("{} is truncated: it has {has} bytes of at least {wants}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Actual size in bytes.
        has: u64,
        /// Smallest size in bytes that the lengths in the file allow.
        wants: u64,
    },
    /// The protobuf encoding is invalid.
    #[error("{} is not a valid ONNX model: {what} at byte {at}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Offset in bytes.
        at: u64,
        /// What is wrong at that offset.
        what: String,
    },
    /// The file is larger than a protobuf message can be.
    #[error("{} has {} MiB, and a model file has at most 2047 MiB", path.display(), size >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Size in bytes.
        size: u64,
    },
    /// The model refers to external data that is missing or not allowed.
    #[error("{} keeps tensors in `{location}`, which {why}", path.display())]
    ExternalData {
        /// The model file.
        path: PathBuf,
        /// The path of the data file as the model states it.
        location: String,
        /// Why the path is refused.
        why: String,
    },
    /// The model refers to external data that does not exist.
    #[error("{} keeps tensors in `{location}`, which does not exist", path.display())]
    MissingData {
        /// The model file.
        path: PathBuf,
        /// The path of the data file as the model states it.
        location: String,
    },
    /// A file of the model is a link that is not followed.
    #[error("{} is a link to {}, which is outside of {}", path.display(), target.display(), folder.display())]
    Link {
        /// The path of the link, or a path through it.
        path: PathBuf,
        /// The file that the path leads to.
        target: PathBuf,
        /// The folder that the user named.
        folder: PathBuf,
    },
    /// The description of the package is not valid.
    #[error("{} does not describe a model: {why}", path.display())]
    Description {
        /// The path of the description.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The configuration that another server or tool has beside a model cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    Configuration {
        /// The path of the configuration.
        path: PathBuf,
        /// The reason.
        why: String,
        /// What to do next.
        hint: String,
    },
    /// A folder holds the folders of several models, as Triton's repositories do.
    #[error("folder {} is a repository of {models} models", path.display())]
    Repository {
        /// The folder.
        path: PathBuf,
        /// How many models it holds.
        models: usize,
        /// The folder of the first.
        first: PathBuf,
    },
    /// A folder holds no model, or several.
    #[error("folder {} {what}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the folder holds: `holds no .onnx file`.
        what: String,
    },
}

impl InspectError {
    /// Returns what the user can do next, or `None` if nothing specific is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotOnnx { hint, .. } | Self::Configuration { hint, .. } => Some(hint.clone()),
            Self::Repository { path, first, .. } => Some(format!(
                "`drisse import triton {0}` deploys all of them, `drisse serve --repository {0}` serves them here; {1} is \
                 the folder of one of them",
                path.display(),
                first.display()
            )),
            Self::Truncated { .. } => {
                Some("copy or download the file again, and compare its size with the original's".to_owned())
            }
            Self::Corrupt { path, .. } => Some(format!(
                "run `python -c \"import onnx; onnx.checker.check_model('{}')\"` for details",
                path.display()
            )),
            Self::ExternalData { .. } | Self::TooLarge { .. } => Some(
                "save the model with its data beside it: `onnx.save(model, 'model.onnx', \
                 save_as_external_data=True, location='model.onnx.data')`"
                    .to_owned(),
            ),
            Self::MissingData { path, location } => Some(format!(
                "copy or download `{location}`, too: it belongs into the folder of {}",
                path.display()
            )),
            Self::Link { folder, .. } => Some(format!(
                "`cp -rL {} COPY` copies the folder with files in place of links; `drisse deploy` and `drisse models \
                 register` follow the links with --follow-links",
                folder.display()
            )),
            Self::Folder { .. } => Some("name the model file itself, or call it `model.onnx`".to_owned()),
            Self::Description { .. } => Some("remove the file, or register the model again".to_owned()),
            Self::Io { .. } => None,
        }
    }
}

/// An error of the [`Store`](crate::Store).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file system operation failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was attempted: `read`, `write`, `make`, `remove`.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file of a model is gone, or a link that is not followed has taken its place since it was inspected.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// A text is not a digest of the form `sha256:HEX`.
    #[error("`{digest}` is not a SHA-256 digest")]
    Digest {
        /// The text.
        digest: String,
    },
    /// The store does not have a blob.
    #[error("blob {digest} is missing from the store")]
    Missing {
        /// The blob's digest.
        digest: String,
    },
    /// A file of a model has not been uploaded, or was removed because nothing used it.
    #[error("the file {digest} has not been uploaded")]
    NotUploaded {
        /// The file's digest.
        digest: String,
    },
    /// More of a file has been uploaded than the size that it is said to have.
    #[error("{received} bytes of the file {digest} are here, and its size is said to be {size}")]
    Size {
        /// The file's digest.
        digest: String,
        /// The number of bytes that are here.
        received: u64,
        /// The size that was given.
        size: u64,
    },
    /// A blob's bytes do not match its digest.
    #[error("blob {digest} is damaged: its bytes have another digest")]
    Corrupt {
        /// The digest under which the blob is stored.
        digest: String,
    },
    /// A manifest cannot be parsed, or does not describe a model.
    #[error("manifest {digest} cannot be used: {why}")]
    Manifest {
        /// The manifest's digest.
        digest: String,
        /// What is wrong with the manifest.
        why: String,
    },
    /// A package of another tool is damaged, or does not hold exactly one ONNX model.
    #[error("it is {kind} {what}")]
    Package {
        /// What it is, with its article: `a container image`.
        kind: &'static str,
        /// What is wrong with it: `without an ONNX model`.
        what: String,
    },
    /// A file changed while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file has a name that a package cannot hold.
    #[error("these files cannot be packed: {why}")]
    Names {
        /// The name, and why it is refused.
        why: String,
    },
    /// A document of a package cannot be encoded.
    #[error("cannot encode a document of a package as JSON")]
    Encode {
        /// The encoder's error.
        source: serde_json::Error,
    },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    pub(crate) fn encode(source: serde_json::Error) -> Self {
        Self::Encode { source }
    }

    /// Returns what the user can do next, or `None` if nothing specific is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => crate::disk_hint(source).map(str::to_owned),
            Self::Inspect(error) => error.hint(),
            Self::Missing { .. } | Self::Corrupt { .. } => Some(
                "`drisse models verify --repair` fixes what it can; or register the model's files again"
                    .to_owned(),
            ),
            Self::NotUploaded { digest } => {
                Some(format!("upload it, or the rest of it: `PATCH /v1/uploads/{digest}`"))
            }
            Self::Names { .. } => Some(
                "rename the file; if the model has external data, save the model again under the new name"
                    .to_owned(),
            ),
            Self::Changed { .. } => Some("try again when the file is completely written".to_owned()),
            Self::Package { what, .. } if what.contains("ONNX model") => Some(
                "unpack it with the tool that made it, convert the model to ONNX if it has another format, and register \
                 one model's file: `drisse models register FILE`"
                    .to_owned(),
            ),
            Self::Package { .. } => Some("get it again from its source, or ask those who made it".to_owned()),
            _ => None,
        }
    }
}
