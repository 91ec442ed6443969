//! Model files: which they are, what they hold, how they are identified.
//!
//! Nothing here runs a model or loads its weights: a 4 GiB model is inspected in a few MiB.
#![warn(missing_docs)]

mod digest;
mod error;
mod onnx;
mod sniff;
mod source;

pub use digest::digest;
pub use error::InspectError;
pub use onnx::{ExternalFile, Inspection, inspect};
pub use source::ModelSource;
