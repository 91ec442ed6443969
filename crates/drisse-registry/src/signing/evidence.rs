//! What lies beside a model and shows whose it is: the manifest that was signed, and the signatures.

use super::{PublicKey, SignatureError, verify};
use crate::blobs::Blob;
use crate::package::Manifest;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The manifest's name in a folder of evidence, and how names of signatures end.
const MANIFEST: &str = "manifest.json";
const SIGNATURE: &str = ".sigstore.json";

/// A manifest and the signatures of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The bundles' texts.
    pub bundles: Vec<Vec<u8>>,
}

impl Evidence {
    /// The files it is kept as.
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let bundles = self.bundles.iter().enumerate();
        let bundles = bundles.map(|(nth, bundle)| (format!("{nth}{SIGNATURE}"), bundle.as_slice()));
        bundles.chain([(MANIFEST.to_owned(), self.manifest.as_slice())])
    }

    /// What lies in a folder. One that is not there is that of a model that is not signed.
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

/// Looks whether the files of a model are those that somebody who counts has signed, before anything of them is
/// understood; the paths that are. `model` is the file, or the folder it is in.
pub fn verify_files(model: &Path, evidence: &Evidence, keys: &[PublicKey]) -> Result<Signed, SignatureError> {
    let package = Blob::of(&evidence.manifest).digest;
    let by = verify(&package, evidence.bundles.iter().map(Vec::as_slice), keys)?;
    let manifest = Manifest::read(&package, &evidence.manifest)
        .map_err(|error| SignatureError::Bundle { why: error.to_string() })?;
    let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new("")) };
    let files: BTreeMap<_, _> = manifest.content().map(|(path, blob)| (folder.join(path), blob)).collect();
    for (path, blob) in &files {
        let altered = |why: String| SignatureError::Altered { path: path.clone(), why };
        let digest = crate::digest::file_digest(path).map_err(|error| altered(error.to_string()))?;
        if !blob.digest.ends_with(&digest) {
            return Err(altered(format!("its digest is sha256:{digest}, and {} was signed", blob.digest)));
        }
    }
    let signed = Signed { by, files: files.into_keys().collect() };
    if !model.is_dir() {
        signed.covers(model)?;
    }
    Ok(signed)
}

/// Files that are as they were signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// The key's id.
    pub by: String,
    files: Vec<PathBuf>,
}

impl Signed {
    /// Whether a file is one of them.
    pub fn covers(&self, path: &Path) -> Result<(), SignatureError> {
        if self.files.iter().any(|signed| signed == path) {
            return Ok(());
        }
        Err(SignatureError::Foreign { path: path.to_owned() })
    }
}
