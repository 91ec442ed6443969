//! Packages of other tools: ModelPack's archives, KitOps' ModelKits, files that ORAS pushed, and models in images.
//!
//! Specifications: <https://github.com/modelpack/model-spec/blob/main/docs/spec.md>,
//! <https://kitops.org/docs/modelkit/spec/>, <https://oras.land/docs/how_to_guides/pushing_and_pulling/>, and for images
//! <https://kserve.github.io/website/latest/modelserving/storage/oci/>.

use super::{ANNOTATED_PATHS, MANIFEST, TITLE, check_paths, is_onnx};
use crate::archive::Compression;
use crate::blobs::{Blob, is_digest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The annotations of a folder that ORAS has packed: that it is one, and the digest of the uncompressed archive.
const UNPACK: &str = "io.deis.oras.content.unpack";
const UNPACKED_DIGEST: &str = "io.deis.oras.content.digest";

/// Longest config, in bytes (4 MiB): it is read into memory.
const MAX_CONFIG: u64 = 4 << 20;

/// Most names of files in a message.
const MAX_NAMES: usize = 10;

/// A package of another tool, which is unpacked and packed again when it is registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherPackage {
    pub(super) kind: Kind,
    config: Blob,
    /// How many layers the manifest has.
    pub(super) count: usize,
    /// The layers that may hold a model's files.
    pub(super) layers: Vec<OtherLayer>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    ModelPack,
    ModelKit,
    Image,
    Artifact,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OtherLayer {
    /// The layer's place in the manifest, and so in the config's list of digests.
    pub(super) nth: usize,
    pub(super) blob: Blob,
    pub(super) form: Form,
    /// The digest of the uncompressed archive, if the manifest has it.
    pub(super) unpacked: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// The layer is the file at this path.
    File(String),
    Archive(Compression),
}

/// The fields of a manifest that are used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    artifact_type: Option<String>,
    config: Part,
    layers: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    media_type: String,
    digest: String,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
}

impl OtherPackage {
    /// Parses a manifest. Returns what it is instead if it cannot hold an ONNX model.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|error| format!("its manifest is not of type {MANIFEST}: {error}"))?;
        let kind = Kind::of(&document);
        let parts = || std::iter::once(&document.config).chain(&document.layers);
        if let Some(part) = parts().find(|part| !is_digest(&part.digest)) {
            return Err(format!("`{:.100}` is not a SHA-256 digest", part.digest));
        }
        if document.config.size > MAX_CONFIG {
            return Err(format!("its config has {} bytes, more than {MAX_CONFIG}", document.config.size));
        }
        let layers = document.layers.iter().enumerate().filter_map(|(nth, part)| part.layer(nth, kind));
        let package = Self {
            kind,
            config: document.config.blob(),
            count: document.layers.len(),
            layers: layers.collect(),
        };
        let files: Vec<_> = package.files().collect();
        check_paths(files.iter().copied())?;
        let what = kind.name();
        if package.layers.is_empty() {
            let kind = document.artifact_type.as_deref().unwrap_or(&document.config.media_type);
            let types: Vec<_> = document.layers.iter().map(|part| &*part.media_type).collect();
            return Err(format!(
                "it is {what} of type {kind:.200} without files of a model; its layers are {}",
                named(&types)
            ));
        }
        // A single file of another format is named by what it has in it, once it is here.
        if files.len() == package.layers.len() && files.len() > 1 && !files.iter().any(is_onnx) {
            return Err(format!("it is {what} without an ONNX model; its files are {}", named(&files)));
        }
        Ok(package)
    }

    /// Returns the blobs that are needed: the layers that may hold the model's files, and the config if it has their
    /// digests.
    pub(super) fn blobs(&self) -> Vec<Blob> {
        self.layers.iter().map(|layer| &layer.blob).chain(self.config()).cloned().collect()
    }

    /// Returns the config if it lists the digests of the uncompressed layers.
    pub(super) fn config(&self) -> Option<&Blob> {
        matches!(self.kind, Kind::ModelPack | Kind::Image).then_some(&self.config)
    }

    /// Returns the paths of the layers that are files.
    fn files(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().filter_map(|layer| match &layer.form {
            Form::File(path) => Some(&**path),
            Form::Archive(_) => None,
        })
    }
}

impl Kind {
    fn of(document: &Document) -> Self {
        let artifact = document.artifact_type.as_deref().unwrap_or_default();
        let config = &*document.config.media_type;
        let has = |names: &[&str]| names.iter().any(|name| artifact.contains(name) || config.contains(name));
        // KitOps' first name was Jozu, and ModelPack's CNAI.
        if has(&["vnd.kitops.", "vnd.jozu."]) {
            Self::ModelKit
        } else if has(&["vnd.cncf.model.", "vnd.cnai.model."]) {
            Self::ModelPack
        } else if has(&["image.config", "container.image"]) {
            Self::Image
        } else {
            Self::Artifact
        }
    }

    /// Returns the name of the kind, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ModelPack => "a ModelPack package",
            Self::ModelKit => "a KitOps ModelKit",
            Self::Image => "a container image",
            Self::Artifact => "an OCI artifact",
        }
    }
}

impl Part {
    fn blob(&self) -> Blob {
        Blob { digest: self.digest.clone(), size: self.size }
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        Some(self.annotations.as_ref()?.get(name)?.trim_start_matches("./"))
    }

    fn path(&self) -> Option<&str> {
        ANNOTATED_PATHS.iter().find_map(|name| self.annotation(name))
    }

    /// Returns the layer, or `None` if it holds none of the model's files.
    fn layer(&self, nth: usize, kind: Kind) -> Option<OtherLayer> {
        let archive = compression(&self.media_type).map(Form::Archive);
        let file = || self.path().map(|path| Form::File(path.to_owned()));
        let form = match kind {
            Kind::Image => archive?,
            Kind::ModelPack | Kind::ModelKit => {
                let is_sample = self.path().is_some_and(|path| Path::new(path).ends_with(super::SAMPLE));
                // `weight.config` has what belongs to the weights, but to no ONNX model.
                let beside = [".weight.config.", ".dataset.", ".code.", ".doc.", ".docs."];
                if !is_sample && beside.iter().any(|part| self.media_type.contains(part)) {
                    return None;
                }
                // A raw layer without a path is an error when the paths are checked.
                archive.or_else(file).unwrap_or_else(|| Form::File(String::new()))
            }
            Kind::Artifact if self.annotation(UNPACK) == Some("true") => {
                archive.unwrap_or(Form::Archive(Compression::Gzip))
            }
            // ORAS gives files the type of a layer of an image unless it is asked for another one.
            Kind::Artifact if self.annotation(TITLE).is_some() => file()?,
            Kind::Artifact => archive?,
        };
        let unpacked = self.annotation(UNPACKED_DIGEST).map(str::to_owned);
        Some(OtherLayer { nth, blob: self.blob(), form, unpacked })
    }
}

/// Returns how an archive of this media type is compressed, or `None` if it is not the type of an archive.
fn compression(media_type: &str) -> Option<Compression> {
    let is_archive = media_type.contains("tar");
    match media_type {
        kind if is_archive && kind.ends_with("zstd") => Some(Compression::Zstd),
        kind if is_archive && kind.ends_with("gzip") => Some(Compression::Gzip),
        kind if kind.ends_with("tar") => Some(Compression::Plain),
        _ => None,
    }
}

/// Lists names for a message.
pub(super) fn named<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<_> = names.iter().take(MAX_NAMES).map(|name| format!("{:.100}", name.as_ref())).collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    match (shown.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (_, 0) => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}
