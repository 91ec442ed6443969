//! Container images, assembled from layers without a daemon: a runtime layer, and a model on top.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/v1.1.1/spec.md>. Builds are reproducible: the same
//! inputs give the same bytes and so the same digest.

mod base;
mod elf;
mod error;
mod layer;
mod loader;
mod packages;
mod read;
mod runtime;
mod shared_libraries;
mod write;

use crate::blobs::Blob;
use crate::package::{DEFAULT_ENGINE, DERIVED, Descriptor, MANIFEST};
use crate::{Evidence, ModelSource, Store, StoreError};
pub use base::Base;
use drisse_core::ServiceName;
pub use elf::Elf;
pub use error::ImageError;
use layer::{Layer, Source};
pub use loader::loader_cache;
pub use read::{image_in, unpack};
pub use runtime::{PROGRAM, Runtime, RuntimeParts, Runtimes};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The day on which this version was released: the date of images that are given no other, so that they are reproducible
/// and tools do not show them as made in 1970.
pub const RELEASED: &str = "2026-11-29T00:00:00Z";

/// Path of the keys file in an image; see `drisse serve --keys`.
pub const KEYS: &str = "/run/secrets/drisse-keys";

/// The user and group id that images run as: unprivileged, and the same as `nonroot` in distroless images.
pub const USER: u32 = 65532;

/// The ports of the scoring listener and the admin listener, unless the user chooses others (`drisse serve --image`).
const PORTS: [u16; 2] = [8000, 8002];

/// A model to be put into an image.
#[derive(Clone, Debug)]
pub struct ImageModel {
    /// The name under which the model is served.
    pub name: String,
    /// The version that the V2 protocol reports.
    pub version: String,
    /// The model's digest: `sha256:HEX`.
    pub digest: String,
    /// The model's files, the model file first: the path in the model's folder, and the path on this machine.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// The signed manifest and its signatures; `None` if the model is not signed.
    pub evidence: Option<Evidence>,
}

/// An image: its manifest and config in memory, and layers that are packed when the image is written.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the image's manifest.
    pub digest: String,
    architecture: String,
    manifest: Vec<u8>,
    config: (Blob, Vec<u8>),
    layers: Vec<(Blob, Content)>,
}

#[derive(Clone, Debug)]
enum Content {
    /// A file that has the layer's bytes.
    Kept(PathBuf),
    /// Files that are packed while the layer is written.
    Packed(Layer),
}

impl ImageModel {
    /// Returns the image model of a model on disk, with its sample, and with the description that names its engine
    /// unless that is the default.
    ///
    /// # Errors
    ///
    /// Returns [`ImageError::Inspect`] if a file cannot be read.
    pub fn of_source(source: &ModelSource, name: &str, version: &str) -> Result<Self, ImageError> {
        let digest = source.digest()?;
        let mut files = source.files();
        files.extend(source.sample.iter().map(|sample| ("sample.json".into(), sample.clone())));
        let derived = source.description.iter().filter(|_| source.engine != DEFAULT_ENGINE);
        files.extend(derived.map(|derived| (DERIVED.into(), derived.clone())));
        Ok(Self { name: name.to_owned(), version: version.to_owned(), digest, files, evidence: None })
    }

    /// Returns the image model of a package in the store. `digest` is the model's, `package` its manifest's.
    ///
    /// # Errors
    ///
    /// Returns an error if the manifest or the config is missing, damaged or not of a model.
    pub fn of_package(store: &Store, digest: &str, package: &str) -> Result<Self, StoreError> {
        let manifest = store.manifest(package)?;
        let (name, version) = store.name_of(&manifest)?;
        // The name may come from another tool, and becomes part of paths.
        let name = ServiceName::of_stem(&name).map_or_else(|| "model".to_owned(), |name| name.to_string());
        let content = manifest.content().map(|(path, blob)| (path, blob.digest));
        let files = content.chain(store.derived_beside_model(&manifest));
        let files = files.map(|(path, digest)| Ok((path, store.path(&digest)?)));
        let files = files.collect::<Result<_, StoreError>>()?;
        Ok(Self { name, version, digest: digest.to_owned(), files, evidence: None })
    }

    /// Returns the path of the model file in the image, or `None` if the model has no files.
    pub fn path(&self) -> Option<PathBuf> {
        Some(Path::new("/models").join(&self.name).join(&self.files.first()?.0))
    }
}

impl Image {
    /// Builds the image that serves a model: the layers of `base` if there is one, the runtime layer, and a layer for
    /// each of the model's files. `created` is the image's date (RFC 3339). Hashes the files and writes nothing.
    ///
    /// # Errors
    ///
    /// Returns an error if the model has no files, a file cannot be read, or base and runtime are for different
    /// architectures.
    pub fn new(
        runtimes: &Runtimes,
        runtime: &Runtime,
        model: &ImageModel,
        base: Option<&Base>,
        created: &str,
    ) -> Result<Self, ImageError> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        if let Some(base) = base {
            base.fits(&runtime.architecture)?;
            for layer in &base.layers {
                layers.push((layer.media_type, layer.blob.clone(), Content::Kept(layer.path.clone())));
                diff_ids.push(layer.diff_id.clone());
            }
        }
        let blob = Blob { digest: runtime.digest.clone(), size: runtime.size };
        layers.push((LAYER_GZIP, blob, Content::Kept(runtimes.layer(runtime)?)));
        diff_ids.push(runtime.diff_id.clone());
        let served = model.path().ok_or(ImageError::NoFiles)?;
        for (path, from) in &model.files {
            let mut layer = Layer::default();
            layer.file(&format!("models/{}/{}", model.name, path.display()), Source::file(from)?);
            layers.push(packed(layer, from)?);
        }
        if let Some(evidence) = &model.evidence {
            let mut layer = Layer::default();
            for (name, bytes) in evidence.files() {
                layer.file(&format!("models/{}/.drisse/{name}", model.name), Source::Bytes(bytes.to_vec()));
            }
            layers.push(packed(layer, Path::new(".drisse"))?);
        }
        // For uncompressed layers the digest of the unpacked layer is the blob's.
        diff_ids.extend(layers[diff_ids.len()..].iter().map(|(_, blob, _)| blob.digest.clone()));
        let mut config = config(runtime, model, &served.display().to_string(), &diff_ids, base);
        date(&mut config, created);
        Ok(Self::assembled(layers, &runtime.architecture, &config))
    }

    /// Builds an image with only the model's files, under `/models/`, for image volumes and KServe's modelcars.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read.
    pub fn of_model(model: &ImageModel) -> Result<Self, ImageError> {
        let mut layers = Vec::new();
        for (path, from) in &model.files {
            let mut layer = Layer::default();
            layer.file(&format!("models/{}", path.display()), Source::file(from)?);
            layers.push(packed(layer, from)?);
        }
        let diff_ids: Vec<_> = layers.iter().map(|(_, blob, _)| blob.digest.clone()).collect();
        // Nothing in the image is executed. Container engines require an architecture all the same.
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Ok(Self::assembled(layers, "amd64", &config))
    }

    /// Writes the config and manifest of an image with these layers.
    fn assembled(layers: Vec<(&str, Blob, Content)>, architecture: &str, config: &serde_json::Value) -> Self {
        let config = encode(config);
        let config_blob = Blob::of(&config);
        let descriptor = |media_type: &str, blob: &Blob| Descriptor {
            media_type: media_type.to_owned(),
            digest: blob.digest.clone(),
            size: blob.size,
            annotations: BTreeMap::new(),
        };
        let described = layers.iter().map(|(media_type, blob, _)| descriptor(media_type, blob));
        let manifest = encode(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config_blob),
            "layers": described.collect::<Vec<_>>(),
        }));
        let digest = Blob::of(&manifest).digest;
        let layers = layers.into_iter().map(|(_, blob, content)| (blob, content)).collect();
        Self {
            digest,
            architecture: architecture.to_owned(),
            manifest,
            config: (config_blob, config),
            layers,
        }
    }

    /// Returns the id by which container engines know the image: the digest of its config.
    pub fn id(&self) -> &str {
        &self.config.0.digest
    }

    /// Returns the architecture as OCI names it: `amd64` or `arm64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Returns the total size of the manifest, config and layers in bytes.
    pub fn size(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|(blob, _)| blob.size).sum();
        layers + self.config.0.size + self.manifest.len() as u64
    }
}

/// Measures a layer that is packed while it is written.
fn packed(layer: Layer, from: &Path) -> Result<(&'static str, Blob, Content), ImageError> {
    let blob = layer.measure().map_err(|error| ImageError::io("pack", from, error))?;
    Ok((LAYER, blob, Content::Packed(layer)))
}

fn config(
    runtime: &Runtime,
    model: &ImageModel,
    file: &str,
    diff_ids: &[String],
    base: Option<&Base>,
) -> serde_json::Value {
    // The server caches what it learns about the model. With a read-only root, only `/tmp` may be writable.
    let ours = ["PATH=/usr/lib/drisse", "XDG_CACHE_HOME=/tmp"].map(str::to_owned);
    let theirs = base.map(|base| base.environment.as_slice()).unwrap_or_default();
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    // Variables of the base image take precedence; our program is started by its absolute path.
    let added = ours.iter().filter(|ours| !theirs.iter().any(|theirs| name(theirs) == name(ours)));
    let environment: Vec<_> = theirs.iter().chain(added).collect();
    let below = base.map_or(0, |base| base.layers.len());
    let history = std::iter::repeat_n("the base image".to_owned(), below);
    let served = format!("{}:{}={file}", model.name, model.version);
    json!({
        "architecture": runtime.architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "ExposedPorts": PORTS.map(|port| (format!("{port}/tcp"), json!({}))).into_iter().collect::<serde_json::Map<_, _>>(),
            "Env": environment,
            "Entrypoint": [PROGRAM, "serve", served, "--image"],
            // Refuses to start without keys: mount a keys file there, or pass `--no-auth` instead.
            "Cmd": ["--keys", KEYS],
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": model.name,
                "org.opencontainers.image.version": model.version,
                "org.opencontainers.image.description": format!("Drisse serving {}:{}", model.name, model.version),
                "drisse.model": format!("{}:{}", model.name, model.version),
                "drisse.model.digest": model.digest,
                "drisse.architecture": runtime.architecture,
                "drisse.version": runtime.version,
                "drisse.onnxruntime": runtime.onnxruntime,
                "drisse.runtime": runtime.digest,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history.chain(["drisse: the runtime".to_owned()])
            .chain(model.files.iter().map(|(path, _)| format!("drisse: {}", path.display())))
            .chain(model.evidence.iter().map(|_| "drisse: signatures".to_owned()))
            .map(|by| json!({ "created_by": by }))
            .collect::<Vec<_>>(),
    })
}

/// Sets the date of an image and of the steps of its history.
fn date(config: &mut serde_json::Value, created: &str) {
    config["created"] = json!(created);
    for step in config["history"].as_array_mut().into_iter().flatten() {
        step["created"] = json!(created);
    }
}

fn encode(document: &serde_json::Value) -> Vec<u8> {
    document.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::RELEASED;

    #[test]
    fn the_date_of_the_release_is_that_of_the_changelog() {
        let changelog = include_str!("../../../CHANGELOG.md");
        let heading = format!("\n## [{}] - {}\n", env!("CARGO_PKG_VERSION"), &RELEASED[..10]);
        assert!(changelog.contains(&heading), "{heading}");
    }
}
