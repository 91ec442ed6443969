//! Packages from registries: every blob whole, or kept as far as it came.

use super::partial::{Outcome, Partial};
use super::registry::Registry;
use super::{RemoteError, TRIES, Transfer, pause};
use crate::blobs::{Blob, BlobState, Store};
use crate::package::Manifest;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use serde_json::Value;
use std::collections::BTreeMap;

/// Blobs at once.
const AT_ONCE: usize = 4;

/// A package as a registry has it. What its tag meant was asked once: from here on it is its digest.
#[derive(Clone, PartialEq, Debug)]
pub struct Pulled {
    /// The manifest's digest.
    pub digest: String,
    /// The manifest.
    pub manifest: Manifest,
    bytes: Vec<u8>,
}

impl Pulled {
    /// Bytes of it in all.
    pub fn size(&self) -> u64 {
        self.manifest.every_blob().map(|(_, blob)| blob.size).fold(0, u64::saturating_add)
    }
}

impl Registry {
    /// What the reference means: a model, or why it is none.
    pub async fn package(&self) -> Result<Pulled, RemoteError> {
        let (bytes, blob) = self.manifest(self.reference().manifest()).await?;
        let manifest = Manifest::read(&blob.digest, &bytes).map_err(|error| {
            let no_model = |why: String| RemoteError::NoModel { reference: self.reference().clone(), why };
            let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let kind = |name: &str| document[name].as_str().unwrap_or_default();
            match (kind("artifactType"), kind("mediaType"), document["config"]["mediaType"].as_str()) {
                (_, index, _) if index.contains("index") || index.contains("list") => {
                    no_model("it is an index of several manifests".to_owned())
                }
                (_, _, Some(config))
                    if config.contains("image.config") || config.contains("container.image") =>
                {
                    no_model("it is a container image".to_owned())
                }
                ("", ..) => no_model(error.to_string()),
                (kind, ..) if !kind.contains("cncf.model") => no_model(format!("it is of type {kind}")),
                _ => no_model(error.to_string()),
            }
        })?;
        Ok(Pulled { digest: blob.digest, manifest, bytes })
    }

    /// Brings a package's blobs into a store, but for those that another one has.
    pub async fn pull(
        &self,
        package: &Pulled,
        store: &Store,
        other: &Store,
        told: &dyn Transfer,
    ) -> Result<(), RemoteError> {
        let blobs = package.manifest.every_blob().map(|(_, blob)| blob).collect();
        self.pull_blobs(blobs, store, Some(other), told).await?;
        store.put_bytes(&package.bytes)?;
        Ok(())
    }

    pub(crate) async fn pull_blobs(
        &self,
        blobs: Vec<Blob>,
        store: &Store,
        other: Option<&Store>,
        told: &dyn Transfer,
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
                    let why = format!("blob {digest} has {size} bytes, not the {said} it says");
                    return Err(self.deceived(why));
                }
                Some(_) => {}
                None => drop(missing.insert(blob.digest.clone(), blob)),
            }
        }
        told.total(missing.values().map(|blob| blob.size).sum());
        let pulls = stream::iter(missing.values()).map(|blob| self.pull_blob(blob, store, told));
        pulls.buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn pull_blob(&self, blob: &Blob, store: &Store, told: &dyn Transfer) -> Result<(), RemoteError> {
        let Some(mut partial) = Partial::open(store, blob)? else {
            told.moved(blob.size.cast_signed());
            return Ok(());
        };
        told.moved(partial.size().cast_signed());
        let (mut tries, mut furthest) = (0, partial.size());
        loop {
            let error = match self.fill(&mut partial, blob, told).await {
                Ok(()) => break,
                Err(error) => error,
            };
            // What comes again after a beginning anew is no progress.
            tries = if partial.size() > furthest { 0 } else { tries + 1 };
            furthest = furthest.max(partial.size());
            if !error.may_pass() || tries == TRIES {
                return Err(error);
            }
            told.note(&format!("{error}: going on from {} of {} MiB", partial.size() >> 20, blob.size >> 20));
            tokio::time::sleep(pause(tries)).await;
        }
        match partial.finish()? {
            Outcome::Kept => Ok(()),
            Outcome::Other(digest) => {
                Err(self.deceived(format!("what it gives as blob {} has the digest {digest}", blob.digest)))
            }
        }
    }

    /// Takes what is missing of a blob.
    async fn fill(&self, partial: &mut Partial, blob: &Blob, told: &dyn Transfer) -> Result<(), RemoteError> {
        if partial.size() == blob.size {
            return Ok(());
        }
        let mut response = self.blob(blob, partial.size()).await?;
        let goes_on =
            response.status() == StatusCode::PARTIAL_CONTENT && start(&response) == Some(partial.size());
        if partial.size() > 0 && !goes_on {
            told.moved(-partial.size().cast_signed());
            partial.restart()?;
        }
        // A part that is not the one asked for, or none.
        if !goes_on && response.status() != StatusCode::OK {
            return Err(self.cut("it does not give the part of a blob that it was asked for".to_owned()));
        }
        while let Some(bytes) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if partial.size() + bytes.len() as u64 > blob.size {
                told.moved(-partial.size().cast_signed());
                partial.restart()?;
                let why = format!("blob {} is longer than the {} bytes it promised", blob.digest, blob.size);
                return Err(self.deceived(why));
            }
            partial.write(&bytes)?;
            told.moved(bytes.len() as i64);
        }
        if partial.size() < blob.size {
            return Err(self.cut("the connection ended before a blob did".to_owned()));
        }
        Ok(())
    }
}

/// Where a part begins: `Content-Range: bytes 5-9/10`.
fn start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
