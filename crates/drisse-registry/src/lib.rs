//! Models at rest: inspecting model files, identifying them by digest, and storing, signing, pushing and pulling
//! them as OCI packages and images.
//!
//! Nothing here runs a model or loads its weights: inspecting and packing a 4 GiB model takes a few MiB of memory.
//!
//! ```
//! use drisse_registry::{ModelSource, Store};
//!
//! let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/digits");
//! let source = ModelSource::open(example.as_ref())?;
//! let folder = tempfile::tempdir()?;
//! let store = Store::open(folder.path())?;
//! let model = store.ingest(&source, &|_bytes| ())?;
//! let manifest_digest = store.pack(&model, "digits", 1, None)?;
//! assert_eq!(store.manifest(&manifest_digest)?.model_digest(), source.digest()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod archive;
mod blobs;
mod digest;
mod durable;
mod error;
mod image;
mod layout;
mod links;
mod onnx;
mod package;
mod partial;
mod referrer;
mod remote;
mod repair;
mod signature;
mod signing;
mod sniff;
mod source;
mod uploads;

pub use blobs::{Blob, BlobState, Store};
pub use digest::{digest, digest_of_file};
pub use durable::{disk_hint, make_folder, replace_file, sync_folder_of};
pub use error::{InspectError, StoreError};
pub use image::{
    Base, Elf, Image, ImageError, ImageModel, KEYS, PROGRAM, RELEASED, Runtime, RuntimeParts, Runtimes, USER,
    image_in, loader_cache, unpack,
};
pub use layout::{Configured, triton_repository};
pub use onnx::{ExternalFile, Inspection, inspect};
pub use package::{INDEX, Ingested, MANIFEST, Manifest, OtherPackage, Package, Unpacked};
pub use partial::{Outcome, Partial};
pub use referrer::Referrer;
pub use remote::{Access, Pulled, Pushed, Reference, RemoteError, RemoteRepository, Transfer};
pub use signature::{signature_document, signature_of};
pub use signing::{
    Bundle, Evidence, PublicKey, SignatureError, Signed, SigningKey, Statement, verify, verify_files,
};
pub use source::ModelSource;
pub use uploads::{Staged, Uploads};
