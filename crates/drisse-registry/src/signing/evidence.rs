//! Evidence: the signed manifest and its signatures, kept in a folder beside the model, and checked against its files.

use super::{PublicKey, SignatureError, verify};
use crate::blobs::Blob;
use crate::package::Manifest;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// In a folder of evidence, the name of the manifest and the suffix of signatures.
const MANIFEST: &str = "manifest.json";
const SIGNATURE: &str = ".sigstore.json";

/// The manifest of a package, and the signatures of that manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The texts of the Sigstore bundles.
    pub bundles: Vec<Vec<u8>>,
}

impl Evidence {
    /// Returns the names and contents of the files in which the evidence is stored; see [`Self::read`].
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let bundles = self.bundles.iter().enumerate();
        let bundles = bundles.map(|(nth, bundle)| (format!("{nth}{SIGNATURE}"), bundle.as_slice()));
        bundles.chain([(MANIFEST.to_owned(), self.manifest.as_slice())])
    }

    /// Reads evidence from a folder: `manifest.json` and `*.sigstore.json`.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Unsigned`] if the folder or its manifest does not exist, or
    /// [`SignatureError::Altered`] if a file cannot be read.
    pub fn read(folder: &Path) -> Result<Self, SignatureError> {
        let altered = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => SignatureError::Unsigned,
            _ => SignatureError::Altered { path: path.to_owned(), why: error.to_string() },
        };
        let small = |path: &Path| {
            let mut bytes = Vec::new();
            let file = fs::File::open(path).map_err(|error| altered(path, error))?;
            file.take(4 << 20).read_to_end(&mut bytes).map_err(|error| altered(path, error))?;
            Ok(bytes)
        };
        let manifest = small(&folder.join(MANIFEST))?;
        let entries = fs::read_dir(folder).map_err(|error| altered(folder, error))?.flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.retain(|path| path.to_str().is_some_and(|name| name.ends_with(SIGNATURE)));
        paths.sort();
        let bundles = paths.iter().map(|path| small(path)).collect::<Result<_, _>>()?;
        Ok(Self { manifest, bundles })
    }
}

/// Verifies a model's files against the signed manifest: one of `keys` must have signed it, and every file in it must
/// have the digest it lists. Nothing in the files is parsed. `model` is the model file or its folder.
///
/// # Errors
///
/// Returns the error of [`verify`], [`SignatureError::Altered`] if a file is missing or differs, or
/// [`SignatureError::Foreign`] if the manifest does not list the model file.
pub fn verify_files(model: &Path, evidence: &Evidence, keys: &[PublicKey]) -> Result<Signed, SignatureError> {
    let package = Blob::of(&evidence.manifest).digest;
    let by = verify(&package, evidence.bundles.iter().map(Vec::as_slice), keys)?;
    let manifest = Manifest::read(&package, &evidence.manifest)
        .map_err(|error| SignatureError::Bundle { why: error.to_string() })?;
    let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new("")) };
    let files = manifest.content().map(|(path, blob)| (folder.join(path), blob.digest));
    // The derived file is in a folder only if it names another engine than the default.
    let derived = manifest.derived().into_iter().map(|(path, digest)| (folder.join(path), digest.to_owned()));
    let files: BTreeMap<_, _> = files.chain(derived.filter(|(path, _)| path.exists())).collect();
    for (path, signed) in &files {
        let altered = |why: String| SignatureError::Altered { path: path.clone(), why };
        let digest = crate::digest::file_digest(path).map_err(|error| altered(error.to_string()))?;
        if !signed.ends_with(&digest) {
            return Err(altered(format!("its digest is sha256:{digest}, and {signed} was signed")));
        }
    }
    let signed = Signed { by, files: files.into_keys().collect() };
    if !model.is_dir() {
        signed.covers(model)?;
    }
    Ok(signed)
}

/// The files that [`verify_files`] has verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// The id of the key that signed the manifest.
    pub by: String,
    files: Vec<PathBuf>,
}

impl Signed {
    /// Checks that `path` is one of the verified files.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Foreign`] if `path` is not one of the verified files.
    pub fn covers(&self, path: &Path) -> Result<(), SignatureError> {
        if self.files.iter().any(|signed| signed == path) {
            return Ok(());
        }
        Err(SignatureError::Foreign { path: path.to_owned() })
    }
}
