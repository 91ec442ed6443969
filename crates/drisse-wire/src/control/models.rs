//! Models: uploading, registering and changing them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use utoipa::ToSchema;

/// A model to deploy: a file or folder on the control plane's machine, uploaded files, or a registered model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelChoice {
    /// An absolute path. Accepted only over the Unix socket, because the control plane reads the file.
    Path(String),
    /// Files that were uploaded.
    Uploaded(UploadedFiles),
    /// `name` (the newest version) or `name:version`.
    Registered(String),
}

/// The body of `POST /v1/models`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The model's file or folder, on the control plane's machine. Accepted only over the Unix socket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The model's files, if they were uploaded: then `path` is omitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<UploadedFiles>,
    /// The digest of a package's manifest; if given, `path` is the OCI image layout that contains it. Without `path`, the
    /// package's blobs were uploaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// The digests of the manifests of the package's signatures in that layout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<String>,
    /// The model's name; by default derived from the file's name.
    pub name: Option<String>,
    /// The path of a sample `/score` body, among the uploaded files if there are any; by default `sample.json` beside the
    /// model.
    pub sample: Option<String>,
    /// Whether links in the model's folder are followed that lead out of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub follow_links: bool,
    /// Replaces the version's tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// Properties to add to the version; existing properties cannot be changed.
    pub properties: Option<BTreeMap<String, String>>,
}

/// The uploaded files of a model.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadedFiles {
    /// The path of the model file, one of `files`.
    pub model: String,
    /// The files: their paths in the model's folder, and their digests.
    pub files: BTreeMap<String, String>,
    /// What the model's name is made of; by default the stem of the model file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stem: Option<String>,
}

impl UploadedFiles {
    /// Returns what the model's name is made of.
    pub fn stem(&self) -> &str {
        let file = || Path::new(&self.model).file_stem().and_then(OsStr::to_str).unwrap_or_default();
        self.stem.as_deref().unwrap_or_else(file)
    }
}

/// The response to `GET` and `PATCH /v1/uploads/{digest}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// The file's digest, `sha256:HEX`.
    pub digest: String,
    /// The number of bytes that have been received, from the file's start.
    pub received: u64,
    /// Whether the whole file is here. Then it need not be sent, and `received` says nothing.
    pub complete: bool,
}

/// The body of `POST /v1/repair`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepairRequest {
    /// Files and folders to search for missing or damaged content.
    pub from: Vec<String>,
}

/// The body of `PATCH /v1/models/{name}/versions/{version}`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelChange {
    /// Tags to set.
    pub tags: BTreeMap<String, String>,
    /// Tags to remove.
    pub remove_tags: Vec<String>,
    /// Properties to add; existing properties cannot be changed.
    pub properties: BTreeMap<String, String>,
}

/// A registered version of a model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The model's name.
    pub name: String,
    /// The version, from 1.
    pub version: u64,
    /// The digest of the model's files.
    pub digest: String,
    /// The digest of the package's manifest, which registries and signatures refer to.
    pub manifest_digest: String,
    /// Total size of the model's files in bytes.
    pub size: u64,
    /// The framework that exported the model, if the file names it.
    pub framework: Option<String>,
    /// When the version was registered.
    pub created_at: String,
    /// Labels that can be changed and removed.
    pub tags: BTreeMap<String, String>,
    /// Labels that can be added but not changed.
    pub properties: BTreeMap<String, String>,
    /// The model's inputs and outputs.
    #[schema(value_type = Object)]
    pub signature: serde_json::Value,
    /// Services with a revision that uses this version.
    pub used_by: Vec<String>,
}
