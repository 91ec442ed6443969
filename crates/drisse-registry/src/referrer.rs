//! Signatures in the store and in registries: manifests that refer to a package's.
//!
//! Source: <https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md>, `subject`.

use crate::package::{Descriptor, MANIFEST};
use crate::signing::{BUNDLE, MAX_BUNDLE, SIGNED};
use crate::{Blob, Store, StoreError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A manifest of a signature.
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
    /// A manifest from its bytes, which have this digest.
    pub(crate) fn read(digest: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let wrong = |why: &str| StoreError::Manifest { digest: digest.to_owned(), why: why.to_owned() };
        let referrer: Self = serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))?;
        let [bundle] = &*referrer.layers else { return Err(wrong("it has not one layer")) };
        if referrer.artifact_type != BUNDLE || bundle.media_type != BUNDLE {
            return Err(wrong("it is of no signature"));
        }
        if bundle.size > MAX_BUNDLE as u64 {
            return Err(wrong("the signature is too long"));
        }
        Ok(referrer)
    }

    /// The digest of the package that is signed.
    pub fn subject(&self) -> &str {
        &self.subject.digest
    }

    /// The bundle.
    pub fn bundle(&self) -> Blob {
        // Checked when it was read, and there is just one where we made it.
        self.blobs().pop().unwrap_or_else(|| Blob::of(b""))
    }

    /// Its config and its bundle.
    pub fn blobs(&self) -> Vec<Blob> {
        let parts = std::iter::once(&self.config).chain(&self.layers);
        parts.map(|part| Blob { digest: part.digest.clone(), size: part.size }).collect()
    }
}

impl Store {
    /// Keeps a signature of a package that is here; the digest of its manifest.
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

    /// The manifest of a signature.
    pub fn referrer(&self, digest: &str) -> Result<Referrer, StoreError> {
        Referrer::read(digest, &self.read(digest)?)
    }
}
