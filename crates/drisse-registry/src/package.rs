//! Packages: models as OCI artifacts in the CNCF ModelPack format.
//!
//! Specification: <https://github.com/modelpack/model-spec/blob/main/docs/spec.md>. The bytes of a
//! manifest depend only on the model, so the same model has the same manifest digest everywhere. That is why the
//! crate `oci-spec` is not used: it keeps annotations in a hash map, whose order changes from run to run.

mod derived;
mod other;
mod unpack;

pub(crate) use derived::{DEFAULT_ENGINE, DERIVED, engine_in};
pub use other::OtherPackage;
pub use unpack::Unpacked;

use crate::blobs::{hex, is_digest};
use crate::{Blob, Inspection, ModelSource, Store, StoreError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Media type of the manifest of an image or a package.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index: a list of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const ARTIFACT: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
const WEIGHT: &str = "application/vnd.cncf.model.weight.v1.raw";
const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";
const DATASET: &str = "application/vnd.cncf.model.dataset.v1.raw";
const FILEPATH: &str = "org.cncf.model.filepath";
const TITLE: &str = "org.opencontainers.image.title";
/// The annotations that may have a layer's path, the most reliable first. The second is an earlier one of ModelPack.
const ANNOTATED_PATHS: [&str; 3] = [FILEPATH, "org.cnai.model.filepath", TITLE];
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The name a sample has in a package and in a view.
const SAMPLE: &str = "sample.json";

/// A model whose files have been copied into the store.
#[derive(Clone, Debug)]
pub struct Ingested {
    /// The digest that identifies the model: `sha256:HEX`.
    pub digest: String,
    /// The name of the engine that runs the model.
    pub engine: String,
    /// What the model file holds.
    pub inspection: Inspection,
    /// The files, each with its path in the model's folder; the model file is first.
    pub files: Vec<(PathBuf, Blob)>,
}

impl Ingested {
    /// Returns whether an existing view links to other files than the store's blobs. This happens when a damaged blob
    /// has been rewritten since the view was created.
    pub fn view_is_stale(&self, store: &Store) -> bool {
        let Ok(view) = store.existing_view(&self.digest) else { return false };
        let same = |(path, blob): &(PathBuf, Blob)| {
            use std::os::unix::fs::MetadataExt;
            let inode =
                |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
            match (inode(&view.join(path)), store.path(&blob.digest).map(|path| inode(&path))) {
                (Ok(linked), Ok(Ok(kept))) => linked == kept || linked.0 != kept.0,
                _ => false,
            }
        };
        !self.files.iter().all(same)
    }
}

/// Longest path of a file in a package, in bytes. `PATH_MAX` is 4096; the rest is for the folder it is unpacked in.
const MAX_PATH: usize = 1024;
/// Longest file name on Linux file systems, in bytes.
const MAX_NAME: usize = 255;

/// Returns whether a path leads to a file inside its folder on any file system, and is a single line in any log.
pub(crate) fn is_plain(path: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(name) if name.len() <= MAX_NAME);
    let fits = (1..=MAX_PATH).contains(&path.len()) && !path.contains(char::is_control);
    fits && !path.ends_with('/') && Path::new(path).components().all(plain)
}

/// The manifest of a package: the list of its blobs.
///
/// Read one with [`Store::manifest`], which also validates the paths in the manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// An entry of the layout's `index.json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexEntry<'a> {
    media_type: &'a str,
    artifact_type: &'a str,
    digest: &'a str,
    size: u64,
    annotations: BTreeMap<&'a str, String>,
}

/// The ModelPack config as Drisse writes it. Configs of other tools may have more fields, which are ignored.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    descriptor: ModelDescriptor,
    config: ModelConfig,
    modelfs: ModelFs,
}

#[derive(Serialize, Deserialize)]
struct ModelDescriptor {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelConfig {
    #[serde(default)]
    format: String,
    #[serde(default)]
    param_size: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelFs {
    r#type: String,
    diff_ids: Vec<String>,
}

impl Store {
    /// Copies a model's files into the store and computes the digest of the copied bytes. Calls `progress` with the
    /// number of bytes of each chunk. Hold a [`Store::packing`] guard until the package is written and referred to.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Changed`] if the model file's size differs from its inspection, or another error if a
    /// file cannot be copied.
    pub fn ingest(&self, source: &ModelSource, progress: &dyn Fn(u64)) -> Result<Ingested, StoreError> {
        let mut files = vec![];
        for (name, path) in source.files() {
            let file = source.open_file(&path)?;
            files.push((name, self.put_opened(file, &path, progress)?));
        }
        if files.first().is_none_or(|(_, model)| model.size != source.inspection.size) {
            return Err(StoreError::Changed { path: source.inspection.path.clone() });
        }
        let digest = digest_of(files.iter().map(|(path, blob)| (&**path, &*blob.digest)));
        let (engine, inspection) = (source.engine.clone(), source.inspection.clone());
        Ok(Ingested { digest, engine, inspection, files })
    }

    /// Writes the package of an ingested model and returns the digest of its manifest. `sample` is a `/score` body.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Names`] if a file's path cannot be part of a package, or another error if a blob cannot
    /// be written.
    pub fn pack(
        &self,
        model: &Ingested,
        name: &str,
        version: u64,
        sample: Option<&[u8]>,
    ) -> Result<String, StoreError> {
        let mut layers: Vec<_> = model.files.iter().map(|(path, blob)| layer(WEIGHT, path, blob)).collect();
        let derived = self.put_bytes(format!("{:#}\n", derived::document(model)).as_bytes())?;
        layers.push(layer(WEIGHT_CONFIG, Path::new(DERIVED), &derived));
        if let Some(sample) = sample {
            layers.push(layer(DATASET, Path::new(SAMPLE), &self.put_bytes(sample)?));
        }
        let config = Config {
            descriptor: ModelDescriptor {
                name: name.to_owned(),
                version: version.to_string(),
                description: model.inspection.description.clone(),
            },
            config: ModelConfig {
                format: crate::onnx::FORMAT.to_owned(),
                param_size: model.inspection.parameters.to_string(),
            },
            modelfs: ModelFs {
                r#type: "layers".to_owned(),
                diff_ids: layers.iter().map(|layer| layer.digest.clone()).collect(),
            },
        };
        let config = self.put_bytes(&serde_json::to_vec(&config).map_err(StoreError::encode)?)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: ARTIFACT.to_owned(),
            config: Descriptor {
                media_type: CONFIG.to_owned(),
                digest: config.digest,
                size: config.size,
                annotations: BTreeMap::new(),
            },
            layers,
            annotations: BTreeMap::new(),
        };
        manifest.check_paths().map_err(|why| StoreError::Names { why })?;
        Ok(self.put_bytes(&serde_json::to_vec(&manifest).map_err(StoreError::encode)?)?.digest)
    }

    /// Reads, parses and validates the manifest with this digest.
    ///
    /// # Errors
    ///
    /// Returns an error if the blob is missing or damaged, or [`StoreError::Manifest`] if it does not describe a model
    /// or has unsafe paths.
    ///
    /// ```
    /// # use drisse_registry::{ModelSource, Store};
    /// # let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/digits");
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::open(folder.path())?;
    /// let model = store.ingest(&ModelSource::open(example.as_ref())?, &|_| ())?;
    /// let digest = store.pack(&model, "digits", 1, None)?;
    /// let manifest = store.manifest(&digest)?;
    /// assert_eq!(manifest.model_file(), Some("digits.onnx".into()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn manifest(&self, digest: &str) -> Result<Manifest, StoreError> {
        Manifest::read(digest, &self.read(digest)?)
    }

    /// Reads the manifest with this digest, of a package of Drisse or of another tool.
    ///
    /// # Errors
    ///
    /// Returns an error if the blob is missing or damaged, or [`StoreError::Manifest`] if it cannot hold a model.
    pub fn package(&self, digest: &str) -> Result<Package, StoreError> {
        let wrong = |why| StoreError::Manifest { digest: digest.to_owned(), why };
        Package::read(digest, &self.read(digest)?).map_err(wrong)
    }

    /// Returns the name and version in a package's config; each is empty if the config does not have it.
    ///
    /// # Errors
    ///
    /// Returns an error if the config blob is missing, damaged or not a ModelPack config.
    pub fn name_of(&self, manifest: &Manifest) -> Result<(String, String), StoreError> {
        let digest = &manifest.config.digest;
        let wrong = |error: serde_json::Error| StoreError::Manifest {
            digest: digest.clone(),
            why: error.to_string(),
        };
        let config: Config = serde_json::from_slice(&self.read(digest)?).map_err(wrong)?;
        Ok((config.descriptor.name, config.descriptor.version))
    }

    /// Returns the [`view`](Self::view) of a package: the folder an engine opens, with the model's files and sample.
    ///
    /// # Errors
    ///
    /// Returns an error if a blob is missing or the view cannot be written.
    pub fn view_of(&self, model_digest: &str, manifest: &Manifest) -> Result<PathBuf, StoreError> {
        let mut files: Vec<_> =
            manifest.files([WEIGHT, DATASET]).map(|(path, digest)| (path, digest.to_owned())).collect();
        files.extend(self.derived_beside_model(manifest));
        self.view(model_digest, &files)
    }

    /// Writes `index.json`, so that any OCI tool can read the store. `models` are names, versions and manifest
    /// digests. The file is derived data: the workspace's database is authoritative.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn write_index(&self, models: &[(String, u64, String)]) -> Result<(), StoreError> {
        // Encoded entry by entry: a JSON tree of ten thousand entries would take many times the memory of its text.
        let mut text = format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[");
        for (nth, (name, version, digest)) in models.iter().enumerate() {
            let entry = IndexEntry {
                media_type: MANIFEST,
                artifact_type: ARTIFACT,
                digest,
                size: std::fs::metadata(self.path(digest)?).map_or(0, |metadata| metadata.len()),
                annotations: BTreeMap::from([(REF_NAME, format!("{name}:{version}"))]),
            };
            text += if nth > 0 { "," } else { "" };
            text += &serde_json::to_string(&entry).map_err(StoreError::encode)?;
        }
        text += "]}";
        self.replace(&self.root().join("index.json"), text.as_bytes())
    }
}

/// A package: one that is registered as it is, or one of another tool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Package {
    /// A package in the form in which Drisse makes them.
    Model(Manifest),
    /// A package that is unpacked and packed again.
    Other(OtherPackage),
}

impl Package {
    /// Parses and validates a manifest; `digest` is the digest of `bytes`. The error says what it is instead.
    pub(crate) fn read(digest: &str, bytes: &[u8]) -> Result<Self, String> {
        match Manifest::read(digest, bytes) {
            Ok(manifest) if manifest.is_one_model() => Ok(Self::Model(manifest)),
            _ => OtherPackage::read(bytes).map(Self::Other),
        }
    }

    /// Returns the blobs that are needed to register the package.
    pub(crate) fn blobs(&self) -> Vec<Blob> {
        match self {
            Self::Model(manifest) => manifest.every_blob().map(|(_, blob)| blob).collect(),
            Self::Other(package) => package.blobs(),
        }
    }
}

impl Manifest {
    /// Parses and validates a manifest; `digest` is the digest of `bytes`.
    pub(crate) fn read(digest: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let wrong = |why: String| StoreError::Manifest { digest: digest.to_owned(), why };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.artifact_type != ARTIFACT || manifest.config.media_type != CONFIG {
            return Err(wrong("it does not describe a model".to_owned()));
        }
        if let Some(layer) = manifest.layers.iter().find(|layer| !is_digest(&layer.digest)) {
            return Err(StoreError::Digest { digest: layer.digest.clone() });
        }
        manifest.check_paths().map_err(wrong)?;
        if manifest.model_file().is_none() {
            return Err(wrong(format!("it has no layer of type {WEIGHT}")));
        }
        Ok(manifest)
    }

    /// Checks that the layers' paths can all be files in one folder.
    fn check_paths(&self) -> Result<(), String> {
        check_paths(
            self.layers.iter().map(|layer| layer.annotations.get(FILEPATH).map_or("", String::as_str)),
        )
    }

    /// Returns whether the package is one model as Drisse packs it: the model file first, and not in a folder.
    fn is_one_model(&self) -> bool {
        let weights: Vec<_> = self.files([WEIGHT]).map(|(path, _)| path).collect();
        let models = weights.iter().filter(|path| is_onnx(path)).count();
        weights.first().is_some_and(|first| {
            first.components().count() == 1 && (models == 0 || models == 1 && is_onnx(first))
        })
    }

    /// Returns the digests of the package's config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.config).chain(&self.layers).map(|descriptor| &*descriptor.digest)
    }

    /// Returns the model file's path in its view.
    pub fn model_file(&self) -> Option<PathBuf> {
        self.files([WEIGHT]).next().map(|(path, _)| path)
    }

    /// Computes the digest of the model in the package.
    pub fn model_digest(&self) -> String {
        let files: Vec<_> = self.files([WEIGHT]).collect();
        digest_of(files.iter().map(|(path, digest)| (&**path, *digest)))
    }

    /// Returns the digest of the sample, or `None` if the package has none.
    pub fn sample(&self) -> Option<&str> {
        self.files([DATASET]).next().map(|(_, digest)| digest)
    }

    /// Returns all layers except the derived `drisse.json`: the model's files and its sample, each with its path.
    pub fn content(&self) -> impl Iterator<Item = (PathBuf, Blob)> {
        self.layers.iter().filter(|layer| layer.media_type != WEIGHT_CONFIG).filter_map(|layer| {
            let path = PathBuf::from(layer.annotations.get(FILEPATH)?);
            Some((path, Blob { digest: layer.digest.clone(), size: layer.size }))
        })
    }

    /// Returns the package's config and layers, each with its path in the package (`its config` for the config).
    pub fn every_blob(&self) -> impl Iterator<Item = (String, Blob)> {
        std::iter::once(&self.config).chain(&self.layers).map(|descriptor| {
            let path = descriptor.annotations.get(FILEPATH).map_or("its config", String::as_str);
            (path.to_owned(), Blob { digest: descriptor.digest.clone(), size: descriptor.size })
        })
    }

    fn files<const N: usize>(&self, types: [&'static str; N]) -> impl Iterator<Item = (PathBuf, &str)> {
        let wanted = move |layer: &&Descriptor| types.contains(&&*layer.media_type);
        self.layers
            .iter()
            .filter(wanted)
            .filter_map(|layer| Some((PathBuf::from(layer.annotations.get(FILEPATH)?), &*layer.digest)))
    }
}

/// Checks that these paths can all be files in one folder.
fn check_paths<'a>(all: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut paths = BTreeSet::new();
    for path in all {
        if !is_plain(path) {
            return Err(format!("{path:.100?} is not a plain path of a file inside the package"));
        }
        if !paths.insert(Path::new(path)) {
            return Err(format!("two layers are both {path:.100?}"));
        }
    }
    match enclosing(&paths) {
        Some(path) => Err(format!("{path:.100?} is inside a path that is a file")),
        None => Ok(()),
    }
}

/// Returns a path that is inside another one, which can then not be a file.
fn enclosing<'a>(paths: &BTreeSet<&'a Path>) -> Option<&'a Path> {
    paths.iter().copied().find(|path| path.ancestors().skip(1).any(|folder| paths.contains(folder)))
}

/// Returns whether a path has the name of an ONNX model. macOS puts files whose names begin with `._` into archives.
fn is_onnx(path: impl AsRef<Path>) -> bool {
    let (path, dot) = (path.as_ref(), |name: &str| name.starts_with("._"));
    let is_beside = path.file_name().is_some_and(|name| name.to_str().is_some_and(dot));
    !is_beside && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// Computes a model's digest from the paths and digests of its files.
pub(crate) fn digest_of<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> String {
    let bare = |digest: &'a str| digest.trim_start_matches("sha256:");
    let mut lines: Vec<_> =
        files.map(|(path, digest)| format!("{}  {}\n", bare(digest), path.display())).collect();
    lines.sort_unstable();
    format!("sha256:{}", hex(&Sha256::digest(lines.concat())))
}

fn layer(media_type: &str, path: &Path, blob: &Blob) -> Descriptor {
    let path = path.display().to_string();
    Descriptor {
        media_type: media_type.to_owned(),
        digest: blob.digest.clone(),
        size: blob.size,
        annotations: BTreeMap::from([(FILEPATH.to_owned(), path.clone()), (TITLE.to_owned(), path)]),
    }
}

#[cfg(test)]
mod tests;
