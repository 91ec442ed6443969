//! Why a file cannot be taken as a model, and what to do about it.

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
            Self::ExternalData { .. } => Some(
                "save the model with its data beside it: `onnx.save(model, 'model.onnx', \
                 save_as_external_data=True, location='model.onnx.data')`"
                    .to_owned(),
            ),
            Self::Folder { .. } => Some("name the model file itself, or call it `model.onnx`".to_owned()),
            Self::Io { .. } => None,
        }
    }
}
