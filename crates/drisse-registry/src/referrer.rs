//! Signatures in the store and in registries: manifests whose `subject` is the manifest of a package.
//!
//! Source: <https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md>, `subject`.

use crate::package::{Descriptor, MANIFEST};
use crate::signing::{BUNDLE, MAX_BUNDLE, SIGNED};
use crate::{Blob, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The manifest of a signature: an OCI artifact with one layer, the Sigstore bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    schema_version: u32,
    media_type: String,
    pub(crate) artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    subject: Descriptor,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Referrer {
    /// Parses a manifest; `digest` is the digest of `bytes`.
    pub(crate) fn read(digest: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let wrong = |why: &str| StoreError::Manifest { digest: digest.to_owned(), why: why.to_owned() };
        let referrer: Self = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        let [bundle] = &*referrer.layers else { return Err(wrong("it does not have exactly one layer")) };
        if referrer.artifact_type != BUNDLE || bundle.media_type != BUNDLE {
            return Err(wrong("it does not describe a signature"));
        }
        if bundle.size > MAX_BUNDLE as u64 {
            return Err(wrong("the signature is too long"));
        }
        Ok(referrer)
    }

    /// Returns the digest of the signed package's manifest.
    pub fn subject(&self) -> &str {
        &self.subject.digest
    }

    /// Returns the blob of the Sigstore bundle.
    pub fn bundle(&self) -> Blob {
        // `read` and `attach` make sure that there is exactly one layer.
        self.blobs().pop().unwrap_or_else(|| Blob::of(b""))
    }

    /// Returns the blobs of the manifest: its config and the bundle.
    pub fn blobs(&self) -> Vec<Blob> {
        let parts = std::iter::once(&self.config).chain(&self.layers);
        parts.map(|part| Blob { digest: part.digest.clone(), size: part.size }).collect()
    }
}

impl Store {
    /// Stores a signature (the text of a bundle) of the package with manifest digest `package`. Returns the digest of
    /// the signature's own manifest.
    ///
    /// # Errors
    ///
    /// Returns an error if the package's manifest is missing or damaged, or if a blob cannot be written.
    pub fn attach(&self, package: &str, bundle: &[u8]) -> Result<String, StoreError> {
        let size = self.read(package)?.len() as u64;
        let described = |media_type: &str, blob: Blob| Descriptor {
            media_type: media_type.to_owned(),
            digest: blob.digest,
            size: blob.size,
            annotations: BTreeMap::new(),
        };
        let note = |name: &str, value: &str| (format!("dev.sigstore.bundle.{name}"), value.to_owned());
        let referrer = Referrer {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: BUNDLE.to_owned(),
            config: described(EMPTY, self.put_bytes(b"{}")?),
            layers: vec![described(BUNDLE, self.put_bytes(bundle)?)],
            subject: described(MANIFEST, Blob { digest: package.to_owned(), size }),
            annotations: BTreeMap::from([note("content", "dsse-envelope"), note("predicateType", SIGNED)]),
        };
        Ok(self.put_bytes(&serde_json::to_vec(&referrer).map_err(StoreError::encode)?)?.digest)
    }

    /// Reads the manifest of a signature.
    ///
    /// # Errors
    ///
    /// Returns an error if the blob is missing or damaged, or [`StoreError::Manifest`] if it is not a signature.
    pub fn referrer(&self, digest: &str) -> Result<Referrer, StoreError> {
        Referrer::read(digest, &self.read(digest)?)
    }
}
