//! Base images: images from a registry on top of which a model's image is built.

use super::{ImageError, LAYER, LAYER_GZIP};
use crate::blobs::{Blob, Store};
use crate::remote::{RemoteError, RemoteRepository, Transfer};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;

const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Longest config, in bytes (4 MiB): it is read into memory.
const MAX_CONFIG: u64 = 4 << 20;

/// A base image whose layers have been pulled.
#[derive(Clone, Debug)]
pub struct Base {
    /// The digest of the image's manifest.
    pub digest: String,
    pub(super) architecture: String,
    /// Environment variables as `NAME=VALUE`.
    pub(super) environment: Vec<String>,
    /// Layers, from the bottom.
    pub(super) layers: Vec<BaseLayer>,
}

#[derive(Clone, Debug)]
pub(super) struct BaseLayer {
    pub(super) media_type: &'static str,
    pub(super) blob: Blob,
    /// Digest of the uncompressed layer.
    pub(super) diff_id: String,
    /// Path of the layer's blob.
    pub(super) path: PathBuf,
}

/// The fields used from an image manifest or an index of manifests.
#[derive(Deserialize)]
struct Document {
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
    #[serde(default)]
    manifests: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Value,
}

impl Base {
    /// Pulls an image for `architecture` into a store. Cancel safe: a later pull continues.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::NoImage`] if the reference is not a Linux image for `architecture`, or another error if
    /// the registry or the store fails.
    pub async fn pull(
        registry: &RemoteRepository,
        architecture: &str,
        store: &Store,
        progress: &dyn Transfer,
    ) -> Result<Self, RemoteError> {
        let reference = registry.reference().clone();
        let wrong = |why: String| RemoteError::NoImage { reference: reference.clone(), why };
        let read = |bytes: &[u8]| {
            serde_json::from_slice::<Document>(bytes).map_err(|error| wrong(error.to_string()))
        };
        let (mut bytes, mut blob) = registry.manifest(reference.manifest()).await?;
        let mut document = read(&bytes)?;
        if !document.manifests.is_empty() {
            let fits = |part: &&Part| {
                part.platform["os"] == "linux" && part.platform["architecture"] == architecture
            };
            let found = document.manifests.iter().find(fits);
            let found = found.ok_or_else(|| wrong(format!("it has no image for linux on {architecture}")))?;
            (bytes, blob) = registry.manifest(&found.digest).await?;
            document = read(&bytes)?;
        }
        let config = document.config.ok_or_else(|| wrong("its manifest has no config".to_owned()))?;
        if config.size > MAX_CONFIG {
            return Err(wrong(format!("its config has {} bytes, more than {MAX_CONFIG}", config.size)));
        }
        let part = |part: &Part| Blob { digest: part.digest.clone(), size: part.size };
        let blobs: Vec<_> = document.layers.iter().map(part).chain([part(&config)]).collect();
        registry.pull_blobs(blobs, store, None, progress).await?;
        let config: Value = serde_json::from_slice(&store.read(&config.digest)?)
            .map_err(|error| wrong(format!("its config cannot be read: {error}")))?;
        let texts = |value: &Value| {
            let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            texts.collect::<Vec<_>>()
        };
        let diff_ids = texts(&config["rootfs"]["diff_ids"]);
        if diff_ids.len() != document.layers.len() {
            return Err(wrong(format!(
                "its manifest has {} layers, and its config {}",
                document.layers.len(),
                diff_ids.len()
            )));
        }
        let layers = document.layers.iter().zip(diff_ids).map(|(layer, diff_id)| {
            let media_type = match &*layer.media_type {
                kind if kind.ends_with("zstd") => LAYER_ZSTD,
                kind if kind.ends_with("gzip") => LAYER_GZIP,
                kind if kind.ends_with("tar") => LAYER,
                kind => return Err(wrong(format!("it has a layer of type {kind}"))),
            };
            let path = store.path(&layer.digest)?;
            Ok(BaseLayer { media_type, blob: part(layer), diff_id, path })
        });
        Ok(Self {
            digest: blob.digest,
            architecture: config["architecture"].as_str().unwrap_or_default().to_owned(),
            environment: texts(&config["config"]["Env"]),
            layers: layers.collect::<Result<_, RemoteError>>()?,
        })
    }

    /// Checks that the base image has this architecture.
    pub(super) fn fits(&self, architecture: &str) -> Result<(), ImageError> {
        if self.architecture == architecture {
            return Ok(());
        }
        Err(ImageError::Base { base: self.architecture.clone(), runtime: architecture.to_owned() })
    }
}
