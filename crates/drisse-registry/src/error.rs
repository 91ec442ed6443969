//! Why a file cannot be taken as a model, or the store cannot keep it, and what to do about it.

use std::path::PathBuf;

/// Why a file cannot be taken as a model.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{} is {what}, not an ONNX model", path.display())]
    NotOnnx {
        /// Which file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// The command that makes an ONNX model of it.
        hint: String,
    },
    /// It starts as an ONNX model and stops in the middle.
    #[error("{} is cut off: it has {has} bytes and says it has at least {wants}", path.display())]
    Truncated {
        /// Which file.
        path: PathBuf,
        /// Bytes there are.
        has: u64,
        /// Bytes there should be.
        wants: u64,
    },
    /// Its protobuf makes no sense.
    #[error("{} is no valid ONNX model: {what} at byte {at}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        at: u64,
        /// What is wrong there.
        what: String,
    },
    /// It is larger than any ONNX model can be.
    #[error("{} has {} MiB, and a model file has at most 2047", path.display(), size >> 20)]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Bytes it has.
        size: u64,
    },
    /// It refers to data outside of its folder.
    #[error("{} keeps tensors in `{location}`, which {why}", path.display())]
    ExternalData {
        /// The model file.
        path: PathBuf,
        /// The place as the model states it.
        location: String,
        /// Why that is refused.
        why: String,
    },
    /// A folder with no model, or with several.
    #[error("folder {} {what}", path.display())]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What it holds.
        what: String,
    },
}

impl InspectError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotOnnx { hint, .. } => Some(hint.clone()),
            Self::Truncated { .. } => {
                Some("copy or download the file again, and compare its size with the original's".to_owned())
            }
            Self::Corrupt { path, .. } => Some(format!(
                "`python -c \"import onnx; onnx.checker.check_model('{}')\"` says more",
                path.display()
            )),
            Self::ExternalData { .. } | Self::TooLarge { .. } => Some(
                "save the model with its data beside it: `onnx.save(model, 'model.onnx', \
                 save_as_external_data=True, location='model.onnx.data')`"
                    .to_owned(),
            ),
            Self::Folder { .. } => Some("name the model file itself, or call it `model.onnx`".to_owned()),
            Self::Io { .. } => None,
        }
    }
}

/// Why the store cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// Something that is no digest.
    #[error("`{digest}` is no SHA-256 digest")]
    Digest {
        /// What was given.
        digest: String,
    },
    /// A blob that is not there.
    #[error("blob {digest} is missing from the store")]
    Missing {
        /// Which.
        digest: String,
    },
    /// A blob whose bytes are not those it is named by.
    #[error("blob {digest} is damaged: its bytes have another digest")]
    Corrupt {
        /// Which.
        digest: String,
    },
    /// A manifest that cannot be used.
    #[error("manifest {digest} cannot be used: {why}")]
    Manifest {
        /// Which.
        digest: String,
        /// Why.
        why: String,
    },
    /// A file that changed while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// Files that no package can hold as they are called.
    #[error("these files cannot be packed: {why}")]
    Names {
        /// Why.
        why: String,
    },
    /// A document that cannot be written.
    #[error("cannot write a package's document")]
    Encode {
        /// Why.
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

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } => crate::disk_hint(source).map(str::to_owned),
            Self::Missing { .. } | Self::Corrupt { .. } => Some(
                "`drisse models verify --repair` mends what it can; or register the model's files again"
                    .to_owned(),
            ),
            Self::Names { .. } => {
                Some("give it a plain name; a model with data beside it is saved anew".to_owned())
            }
            Self::Changed { .. } => Some("try again once the file is written".to_owned()),
            _ => None,
        }
    }
}
