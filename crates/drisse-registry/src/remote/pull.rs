//! Pulling packages: blobs are verified when complete, and interrupted ones continue later.

use super::registry::RemoteRepository;
use super::{RemoteError, TRIES, Transfer, pause};
use crate::blobs::is_digest;
use crate::blobs::{Blob, BlobState, Store};
use crate::package::Package;
use crate::partial::{Outcome, Partial};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;

/// How many blobs are pulled at once.
const AT_ONCE: usize = 4;

/// A package in a registry, resolved to its digest: later changes of the tag have no effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulled {
    /// The manifest's digest.
    pub digest: String,
    blobs: Vec<Blob>,
    bytes: Vec<u8>,
}

impl Pulled {
    /// Returns the total size of the blobs to pull in bytes, without the manifest.
    pub fn size(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add)
    }
}

impl RemoteRepository {
    /// Resolves the reference to a package by reading its manifest; in an index, that of the only manifest, or of the
    /// image for this machine.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::NoModel`] if the reference is something else that cannot hold an ONNX model, or another
    /// error if the registry fails.
    pub async fn package(&self) -> Result<Pulled, RemoteError> {
        let no_model = |why: String| RemoteError::NoModel { reference: self.reference().clone(), why };
        let (mut bytes, mut blob) = self.manifest(self.reference().manifest()).await?;
        let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(entries) = document["manifests"].as_array() {
            let chosen = only(entries).ok_or_else(|| {
                let digests: Vec<_> =
                    entries.iter().filter_map(|entry| entry["digest"].as_str()).take(5).collect();
                no_model(format!("it is an index of several manifests: {}", digests.join(", ")))
            })?;
            (bytes, blob) = self.manifest(chosen).await?;
        }
        let package = Package::read(&blob.digest, &bytes).map_err(no_model)?;
        Ok(Pulled { digest: blob.digest, blobs: package.blobs(), bytes })
    }

    /// Pulls a package's blobs into `store`, except those that `other` has. Cancel safe: a later pull into the same
    /// store continues.
    ///
    /// # Errors
    ///
    /// Returns an error if the registry fails repeatedly without progress or sends wrong bytes, or if a store fails.
    pub async fn pull(
        &self,
        package: &Pulled,
        store: &Store,
        other: &Store,
        progress: &dyn Transfer,
    ) -> Result<(), RemoteError> {
        self.pull_blobs(package.blobs.clone(), store, Some(other), progress).await?;
        store.put_bytes(&package.bytes)?;
        Ok(())
    }

    pub(crate) async fn pull_blobs(
        &self,
        blobs: Vec<Blob>,
        store: &Store,
        other: Option<&Store>,
        progress: &dyn Transfer,
    ) -> Result<(), RemoteError> {
        let mut missing = BTreeMap::new();
        for blob in blobs {
            let there = match other {
                Some(other) if other.check(&blob.digest)? == BlobState::Good => {
                    Some(other.size(&blob.digest)?)
                }
                _ => None,
            };
            match there {
                Some(size) if size != blob.size => {
                    let (digest, said) = (&blob.digest, blob.size);
                    let why = format!("blob {digest} has {size} bytes, and not {said} as the manifest says");
                    return Err(self.deceived(why));
                }
                Some(_) => {}
                None => drop(missing.insert(blob.digest.clone(), blob)),
            }
        }
        progress.total(missing.values().map(|blob| blob.size).sum());
        let pulls = stream::iter(missing.values()).map(|blob| self.pull_blob(blob, store, progress));
        pulls.buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn pull_blob(
        &self,
        blob: &Blob,
        store: &Store,
        progress: &dyn Transfer,
    ) -> Result<(), RemoteError> {
        let Some(mut partial) = Partial::open(store, blob)? else {
            progress.moved(blob.size.cast_signed());
            return Ok(());
        };
        progress.moved(partial.size().cast_signed());
        let (mut tries, mut furthest) = (0, partial.size());
        loop {
            let error = match self.fill(&mut partial, blob, progress).await {
                Ok(()) => break,
                Err(error) => error,
            };
            // Bytes received again after a restart are not progress.
            tries = if partial.size() > furthest { 0 } else { tries + 1 };
            furthest = furthest.max(partial.size());
            if !error.may_pass() || tries == TRIES {
                return Err(error);
            }
            progress.note(&format!(
                "{error}: continuing from {} of {} MiB",
                partial.size() >> 20,
                blob.size >> 20
            ));
            tokio::time::sleep(pause(tries)).await;
        }
        match partial.finish()? {
            Outcome::Kept => Ok(()),
            Outcome::Other(digest) => {
                Err(self
                    .deceived(format!("the bytes it sent for blob {} have the digest {digest}", blob.digest)))
            }
        }
    }

    /// Receives the missing bytes of a blob.
    async fn fill(
        &self,
        partial: &mut Partial,
        blob: &Blob,
        progress: &dyn Transfer,
    ) -> Result<(), RemoteError> {
        if partial.size() == blob.size {
            return Ok(());
        }
        let mut response = self.blob(blob, partial.size()).await?;
        let continues =
            response.status() == StatusCode::PARTIAL_CONTENT && start(&response) == Some(partial.size());
        if partial.size() > 0 && !continues {
            progress.moved(-partial.size().cast_signed());
            partial.restart()?;
        }
        let is_part =
            matches!(response.status(), StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE);
        if !continues && is_part {
            return Err(self.cut("it did not send the requested part of a blob".to_owned()));
        }
        while let Some(bytes) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if partial.size() + bytes.len() as u64 > blob.size {
                progress.moved(-partial.size().cast_signed());
                partial.restart()?;
                let why =
                    format!("blob {} is longer than the {} bytes in the manifest", blob.digest, blob.size);
                return Err(self.deceived(why));
            }
            partial.write(&bytes)?;
            progress.moved(bytes.len() as i64);
        }
        if partial.size() < blob.size {
            return Err(self.cut("the connection ended before the blob was complete".to_owned()));
        }
        Ok(())
    }
}

/// Returns the digest of the manifest to take from an index: the only one, or that of the image for this machine. Builders
/// of images add manifests of an unknown platform, which say how an image was built.
fn only(entries: &[Value]) -> Option<&str> {
    let all: Vec<_> = entries.iter().filter(|entry| entry["platform"]["os"] != "unknown").collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let is_ours = |entry: &&&Value| {
        entry["platform"]["os"] == "linux" && entry["platform"]["architecture"] == architecture
    };
    let chosen = if let [one] = &*all { one } else { all.iter().find(is_ours)? };
    // A malformed digest would be requested as if it were a tag.
    chosen["digest"].as_str().filter(|digest| is_digest(digest))
}

/// Returns the offset at which a partial response starts: 5 in `Content-Range: bytes 5-9/10`.
fn start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
