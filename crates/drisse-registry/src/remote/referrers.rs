//! Pulling and pushing the signatures of a package, with the referrers API or the tags that replace it.
//!
//! Specification: <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers>.

use super::registry::RemoteRepository;
use super::{RemoteError, Transfer};
use crate::blobs::Store;
use crate::package::{INDEX, MANIFEST};
use crate::referrer::Referrer;
use crate::signing::BUNDLE;
use serde_json::{Value, json};
use std::path::Path;

/// How many signatures of a package are pulled at most, so that a registry cannot make us pull without end.
const MOST: usize = 64;

impl RemoteRepository {
    /// Pulls the signatures of the package with manifest digest `package` into `store`. Returns the digests of the
    /// signatures' manifests. Does not verify the signatures.
    ///
    /// # Errors
    ///
    /// Returns an error if the registry or the store fails.
    pub async fn pull_signatures(&self, package: &str, store: &Store) -> Result<Vec<String>, RemoteError> {
        let entries = match self.referrers(package).await? {
            Some(entries) => entries,
            None => self.tagged(package).await?["manifests"].as_array().cloned().unwrap_or_default(),
        };
        let signed = entries.iter().filter(|entry| entry["artifactType"] == BUNDLE).take(MOST);
        let mut found = Vec::new();
        for digest in signed.filter_map(|entry| entry["digest"].as_str()) {
            let (bytes, blob) = self.manifest(digest).await?;
            // Other tools may list other artifacts.
            let Ok(referrer) = Referrer::read(&blob.digest, &bytes) else { continue };
            if referrer.subject() != package {
                continue;
            }
            self.pull_blobs(referrer.blobs(), store, None, &()).await?;
            found.push(store.put_bytes(&bytes)?.digest);
        }
        Ok(found)
    }

    /// Pushes a signature in `store`; `digest` is its manifest's. `cache` as for [`Self::push`].
    ///
    /// # Errors
    ///
    /// Returns an error if the registry denies access or fails repeatedly, or if a blob is missing or damaged.
    pub async fn push_signature(
        &self,
        digest: &str,
        store: &Store,
        cache: &Path,
        progress: &dyn Transfer,
    ) -> Result<(), RemoteError> {
        let referrer = store.referrer(digest)?;
        let listed = self.push_parts(digest, digest, store, cache, progress).await?.1;
        if listed {
            return Ok(());
        }
        let bytes = store.read(digest)?;
        let mut index = self.tagged(referrer.subject()).await?;
        let entry = json!({
            "mediaType": MANIFEST, "digest": digest, "size": bytes.len(),
            "artifactType": referrer.artifact_type, "annotations": referrer.annotations,
        });
        if let Some(entries) = index["manifests"].as_array_mut() {
            entries.retain(|there| there["digest"] != digest);
            entries.push(entry);
        }
        let text = index.to_string();
        self.put_manifest(&tag(referrer.subject()), INDEX, text.as_bytes()).await.map(drop)
    }

    /// Returns the index under the tag that replaces the referrers API in registries without it.
    async fn tagged(&self, package: &str) -> Result<Value, RemoteError> {
        let empty = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
        match self.manifest(&tag(package)).await {
            Ok((bytes, _)) => {
                let index: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                Ok(if index["manifests"].is_array() { index } else { empty })
            }
            Err(RemoteError::Absent { .. }) => Ok(empty),
            Err(error) => Err(error),
        }
    }
}

/// Returns the tag that replaces the referrers API for a package: `sha256-HEX`.
fn tag(package: &str) -> String {
    package.replace(':', "-")
}
