//! Models at rest: what a file holds, how it is identified, the packages and the store they lie in.
//!
//! Nothing here runs a model or loads its weights: a 4 GiB model is inspected and packed in a few MiB.
#![warn(missing_docs)]

mod blobs;
mod digest;
mod durable;
mod error;
mod image;
mod onnx;
mod package;
mod referrer;
mod remote;
mod repair;
mod signature;
mod signing;
mod sniff;
mod source;

pub use blobs::{Blob, BlobState, Store};
pub use digest::digest;
pub use durable::{disk_hint, make_folder, replace_file, sync_folder_of};
pub use error::{InspectError, StoreError};
pub use image::{
    Base, Elf, Image, ImageError, ImageModel, KEYS, PROGRAM, Runtime, RuntimeParts, Runtimes, USER, image_in,
    loader_cache, unpack,
};
pub use onnx::{ExternalFile, Inspection, inspect};
pub use package::{INDEX, Ingested, MANIFEST, Manifest};
pub use referrer::Referrer;
pub use remote::{Access, Pulled, Pushed, Reference, Registry, RemoteError, Transfer};
pub use signature::{signature_document, signature_of};
pub use signing::{
    Bundle, Evidence, PublicKey, SignatureError, Signed, SigningKey, Statement, verify, verify_files,
};
pub use source::ModelSource;
