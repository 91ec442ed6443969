//! Packages: a model as an OCI artifact in the form of CNCF ModelPack.
//!
//! Specification: <https://github.com/modelpack/model-spec/blob/main/docs/spec.md>. The bytes of a
//! manifest depend on the model alone, so the same model has the same manifest digest everywhere
//! (`oci-spec` keeps annotations in a hash map, whose order changes from run to run).

use crate::blobs::{hex, is_digest};
use crate::{Blob, Inspection, ModelSource, Store, StoreError, signature_document};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// The type of an image's or a package's manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of a list of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const ARTIFACT: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
const WEIGHT: &str = "application/vnd.cncf.model.weight.v1.raw";
const WEIGHT_CONFIG: &str = "application/vnd.cncf.model.weight.config.v1.raw";
const DATASET: &str = "application/vnd.cncf.model.dataset.v1.raw";
const FILEPATH: &str = "org.cncf.model.filepath";
const TITLE: &str = "org.opencontainers.image.title";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What Drisse derives from a model; no part of its identity.
const DERIVED: &str = "drisse.json";

/// The name a sample has in a package and in a view.
const SAMPLE: &str = "sample.json";

/// A model's files, copied into the store.
#[derive(Clone, Debug)]
pub struct Ingested {
    /// The digest that identifies the model.
    pub digest: String,
    /// What the model file holds.
    pub inspection: Inspection,
    /// The files, by path inside the model's folder; the model file first.
    pub files: Vec<(PathBuf, Blob)>,
}

impl Ingested {
    /// Whether a view made earlier has other files than the store has now: a blob was damaged and is
    /// written anew.
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

/// The longest path of a file in a package, in bytes; the folder it is unpacked in comes before it …
const MAX_PATH: usize = 1024;
/// … and the longest name that Linux's file systems take.
const MAX_NAME: usize = 255;

/// Whether a path leads to a file inside of a folder, on any file system, and is a single line in any log.
fn is_plain(path: &str) -> bool {
    let plain = |part| matches!(part, Component::Normal(name) if name.len() <= MAX_NAME);
    let fits = (1..=MAX_PATH).contains(&path.len()) && !path.contains(char::is_control);
    fits && !path.ends_with('/') && Path::new(path).components().all(plain)
}

/// A manifest: which blobs make up a package.
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

/// A package in the layout's index.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexEntry<'a> {
    media_type: &'a str,
    artifact_type: &'a str,
    digest: &'a str,
    size: u64,
    annotations: BTreeMap<&'a str, String>,
}

/// What we say in ModelPack's config, and read in those of others, who may say more.
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
    /// Copies a model's files in and computes the digest of exactly what was copied. Hold
    /// [`Store::packing`] until [`Store::pack`] and what refers to it are done.
    pub fn ingest(&self, source: &ModelSource, progress: &dyn Fn(u64)) -> Result<Ingested, StoreError> {
        let path = &source.inspection.path;
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        let model = self.put_file(path, progress)?;
        if model.size != source.inspection.size {
            return Err(StoreError::Changed { path: path.clone() });
        }
        let mut files = vec![(name, model)];
        for external in &source.inspection.external_data {
            let relative: PathBuf = Path::new(&external.location).components().collect();
            files.push((relative.clone(), self.put_file(&folder.join(&relative), progress)?));
        }
        let digest = digest_of(files.iter().map(|(path, blob)| (&**path, &*blob.digest)));
        Ok(Ingested { digest, inspection: source.inspection.clone(), files })
    }

    /// Writes the package of an ingested model; the manifest's digest.
    pub fn pack(
        &self,
        model: &Ingested,
        name: &str,
        version: u64,
        sample: Option<&[u8]>,
    ) -> Result<String, StoreError> {
        let mut layers: Vec<_> = model.files.iter().map(|(path, blob)| layer(WEIGHT, path, blob)).collect();
        let derived = self.put_bytes(format!("{:#}\n", derived(model)).as_bytes())?;
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
                format: "onnx".to_owned(),
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

    /// The manifest of this digest.
    pub fn manifest(&self, digest: &str) -> Result<Manifest, StoreError> {
        Manifest::read(digest, &self.read(digest)?)
    }

    /// What a package was made as: its name and version, empty where its config does not say.
    pub fn name_of(&self, manifest: &Manifest) -> Result<(String, String), StoreError> {
        let digest = &manifest.config.digest;
        let wrong = |error: serde_json::Error| StoreError::Manifest {
            digest: digest.clone(),
            why: error.to_string(),
        };
        let config: Config = serde_json::from_slice(&self.read(digest)?).map_err(wrong)?;
        Ok((config.descriptor.name, config.descriptor.version))
    }

    /// The folder an engine opens: the model's files, and its sample beside them.
    pub fn view_of(&self, model_digest: &str, manifest: &Manifest) -> Result<PathBuf, StoreError> {
        let files: Vec<_> =
            manifest.files([WEIGHT, DATASET]).map(|(path, digest)| (path, digest.to_owned())).collect();
        self.view(model_digest, &files)
    }

    /// Writes `index.json`, so that any OCI tool can read the store. Derived: what it names is in the
    /// workspace's database.
    pub fn write_index(&self, models: &[(String, u64, String)]) -> Result<(), StoreError> {
        // Written as it goes: a tree of ten thousand entries would be many times its text.
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

impl Manifest {
    /// A manifest from its bytes, which have this digest.
    pub(crate) fn read(digest: &str, bytes: &[u8]) -> Result<Self, StoreError> {
        let wrong = |why: String| StoreError::Manifest { digest: digest.to_owned(), why };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.artifact_type != ARTIFACT || manifest.config.media_type != CONFIG {
            return Err(wrong("it is not of a model".to_owned()));
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

    /// Whether its layers can all be files of one folder.
    fn check_paths(&self) -> Result<(), String> {
        let mut paths = BTreeSet::new();
        for layer in &self.layers {
            let path = layer.annotations.get(FILEPATH).map_or("", String::as_str);
            if !is_plain(path) {
                return Err(format!("{path:.100?} is no plain path of a file inside the package"));
            }
            if !paths.insert(Path::new(path)) {
                return Err(format!("two layers are both {path:.100?}"));
            }
        }
        let inside = |path: &&&Path| path.ancestors().skip(1).any(|folder| paths.contains(folder));
        match paths.iter().find(inside) {
            Some(path) => Err(format!("{path:.100?} is inside of what is a file too")),
            None => Ok(()),
        }
    }

    /// Digests of every blob of the package but the manifest itself.
    pub fn blobs(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.config).chain(&self.layers).map(|descriptor| &*descriptor.digest)
    }

    /// The model file's path inside its view.
    pub fn model_file(&self) -> Option<PathBuf> {
        self.files([WEIGHT]).next().map(|(path, _)| path)
    }

    /// The digest of the model that is in it.
    pub fn model_digest(&self) -> String {
        let files: Vec<_> = self.files([WEIGHT]).collect();
        digest_of(files.iter().map(|(path, digest)| (&**path, *digest)))
    }

    /// The digest of the sample, where there is one.
    pub fn sample(&self) -> Option<&str> {
        self.files([DATASET]).next().map(|(_, digest)| digest)
    }

    /// The model's files and its sample: path inside the package, and blob. Everything else is derived.
    pub fn content(&self) -> impl Iterator<Item = (PathBuf, Blob)> {
        self.layers.iter().filter(|layer| layer.media_type != WEIGHT_CONFIG).filter_map(|layer| {
            let path = PathBuf::from(layer.annotations.get(FILEPATH)?);
            Some((path, Blob { digest: layer.digest.clone(), size: layer.size }))
        })
    }

    /// Every blob of the package but the manifest itself, and what it is called.
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

/// A model's digest, from its files' paths and digests.
fn digest_of<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> String {
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

fn derived(model: &Ingested) -> serde_json::Value {
    let found = &model.inspection;
    json!({
        "schema": 1,
        "digest": model.digest,
        "engine": "onnx",
        "framework": found.framework,
        "producer": found.producer,
        "producer_version": found.producer_version,
        "opsets": found.opsets,
        "parameters": found.parameters,
        "data_dependent": found.data_dependent,
        "signature": signature_document(&found.signature),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> ModelSource {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        ModelSource::open(&root.join(name)).unwrap()
    }

    #[test]
    fn the_same_model_has_the_same_package_everywhere_and_its_digest_is_the_inspectors() {
        let pack = || {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let source = example("digits");
            let model = store.ingest(&source, &|_| ()).unwrap();
            assert_eq!(model.digest, source.digest().unwrap());
            (store.pack(&model, "digits", 1, Some(b"{}")).unwrap(), store, folder)
        };
        let (one, store, _folder) = pack();
        assert_eq!(one, pack().0);
        let manifest = store.manifest(&one).unwrap();
        assert_eq!(manifest.model_file(), Some("digits.onnx".into()));
        let view = store.view_of(&example("digits").digest().unwrap(), &manifest).unwrap();
        assert!(view.join("digits.onnx").is_file() && view.join("sample.json").is_file());
        assert!(!view.join(DERIVED).exists());
    }

    #[test]
    fn the_config_has_only_what_modelpacks_schema_allows() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let model = store.ingest(&example("wine"), &|_| ()).unwrap();
        let manifest = store.manifest(&store.pack(&model, "wine", 3, None).unwrap()).unwrap();
        let config = store.read(&manifest.config.digest).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let keys = |value: &serde_json::Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect::<Vec<_>>()
        };
        // All that it says is in the schema, with its type, and what the schema requires is there.
        assert_eq!(keys(&config), ["config", "descriptor", "modelfs"]);
        assert_eq!(config["descriptor"], json!({ "name": "wine", "version": "3" }));
        assert_eq!(keys(&config["config"]), ["format", "paramSize"]);
        assert!(config["config"]["format"] == "onnx" && config["config"]["paramSize"].is_string());
        let digests: Vec<_> = manifest.layers.iter().map(|layer| &*layer.digest).collect();
        assert_eq!(config["modelfs"], json!({ "type": "layers", "diffIds": digests }));
        assert!(manifest.layers.iter().all(|layer| layer.annotations.contains_key(FILEPATH)));
    }

    #[test]
    fn a_package_of_another_tool_may_say_more_or_less_of_its_model() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let blob = store.put_bytes(b"x").unwrap();
        for (descriptor, name) in [
            (
                json!({ "createdAt": "2025-01-01T00:00:00Z", "family": "Wine", "name": "Wine", "authors": ["x"] }),
                "wine",
            ),
            (json!({ "name": "../../usr/lib" }), "usr-lib"),
            (json!({}), "model"),
        ] {
            let text = json!({ "descriptor": descriptor, "config": { "architecture": "mlp", "precision": "f32" },
                               "modelfs": { "type": "layers", "diffIds": [blob.digest] } });
            let config = store.put_bytes(text.to_string().as_bytes()).unwrap();
            let text = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT,
                "config": { "mediaType": CONFIG, "digest": config.digest, "size": config.size },
                "layers": [{ "mediaType": WEIGHT, "digest": blob.digest, "size": 1,
                             "annotations": { FILEPATH: "x.onnx" } }] });
            let package = store.put_bytes(text.to_string().as_bytes()).unwrap();
            let model = crate::ImageModel::of_package(&store, &blob.digest, &package.digest).unwrap();
            assert_eq!(model.path().unwrap(), Path::new("/models").join(name).join("x.onnx"));
        }
    }

    #[test]
    fn the_index_names_every_package_as_oci_tools_expect_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let model = store.ingest(&example("wine"), &|_| ()).unwrap();
        let package = store.pack(&model, "wine", 1, None).unwrap();
        let entry = |version| ("wine".to_owned(), version, package.clone());
        store.write_index(&[entry(1), entry(2)]).unwrap();
        let text = std::fs::read(folder.path().join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&2.into(), &INDEX.into()));
        let [first, second] = &**index["manifests"].as_array().unwrap() else { panic!("{index}") };
        assert_eq!((&first["digest"], &first["mediaType"]), (&(*package).into(), &MANIFEST.into()));
        assert_eq!(first["annotations"][REF_NAME], "wine:1");
        assert_eq!(
            (&second["annotations"][REF_NAME], &second["artifactType"]),
            (&"wine:2".into(), &ARTIFACT.into())
        );
        assert!(first["size"].as_u64().unwrap() > 100);
    }

    #[test]
    fn a_manifest_whose_paths_are_not_plain_files_of_one_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let blob = store.put_bytes(b"x").unwrap();
        let read = |paths: &[&str]| {
            let layer = |path| json!({ "mediaType": WEIGHT, "digest": blob.digest, "size": 1, "annotations": { FILEPATH: path } });
            let text = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT,
                "config": { "mediaType": CONFIG, "digest": blob.digest, "size": 1 },
                "layers": paths.iter().map(layer).collect::<Vec<_>>() });
            store.manifest(&store.put_bytes(text.to_string().as_bytes()).unwrap().digest)
        };
        let (long, deep) = ("x".repeat(256), "x/".repeat(600) + "x");
        for path in ["../x", "/etc/x", "", ".", "a/../../x", "a\0b", "a\nb", "a/", &long, &deep] {
            assert!(read(&[path]).unwrap_err().to_string().contains("no plain path"), "{path}");
        }
        assert!(read(&["a", "a"]).unwrap_err().to_string().contains("two layers are both"));
        assert!(read(&["a/b/c", "a"]).unwrap_err().to_string().contains("inside of what is a file"));
        read(&["a.onnx", "data/b", "data/c"]).unwrap();
    }
}
