//! Finding the files of a model from the path of a file or folder.

use crate::blobs::hex;
use crate::durable::folder_of;
use crate::layout::{Configured, Layout, check_no_repository};
use crate::links::{Links, hub_repository};
use crate::onnx::inspect_with;
use crate::package::{DEFAULT_ENGINE, DERIVED, digest_of, engine_in};
use crate::{InspectError, Inspection, inspect};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A model on disk: its file, its external data, its sample and its name.
#[derive(Clone, Debug)]
pub struct ModelSource {
    /// The contents of the model file.
    pub inspection: Inspection,
    /// The name in the configuration of another server beside the model, or the stem of the file's name, or the folder's
    /// name if the stem is generic: `model`, or a version number.
    pub name: String,
    /// What else that configuration says.
    pub configured: Configured,
    /// The `sample.json` beside the model, or the sample in that configuration: a `/score` body. `None` if neither exists.
    pub sample: Option<PathBuf>,
    /// The name of the engine that runs the model, from [`description`](Self::description).
    pub engine: String,
    /// `drisse.json` beside the model, if it is there: what its package says about it.
    pub description: Option<PathBuf>,
    /// The files that are outside of the folder that was named, each with its real path: links lead there.
    pub outside: Vec<(PathBuf, PathBuf)>,
    links: Links,
}

/// The longest `drisse.json`: the signature of a model with thousands of inputs.
const MAX_DESCRIPTION: u64 = 16 << 20;

/// A protobuf message is smaller than 2 GiB: <https://protobuf.dev/programming-guides/proto-limits/>.
const MAX_MODEL: u64 = i32::MAX as u64;

impl ModelSource {
    /// Finds and inspects the model at `path`: a file, a folder with a `model.onnx` or exactly one `.onnx` file, or a folder
    /// of Triton, MLflow or MLServer.
    /// Follows links that end below that folder or the folder of that file, and those of a Hugging Face cache to the
    /// blobs of the same repository.
    ///
    /// # Errors
    ///
    /// Returns [`InspectError::Folder`] if a folder has no such file, [`InspectError::Link`] if a link leads elsewhere, or
    /// any error of [`inspect`].
    ///
    /// ```
    /// let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/digits");
    /// let model = drisse_registry::ModelSource::open(folder.as_ref())?;
    /// assert_eq!(model.name, "digits");
    /// assert_eq!(model.inspection.signature.inputs[0].name, "X");
    /// # Ok::<(), drisse_registry::InspectError>(())
    /// ```
    pub fn open(path: &Path) -> Result<Self, InspectError> {
        Self::open_following(path, false)
    }

    /// Does the same as [`Self::open`], and follows all links if `all_links` is set.
    ///
    /// # Errors
    ///
    /// Returns any error of [`Self::open`].
    pub fn open_following(path: &Path, all_links: bool) -> Result<Self, InspectError> {
        Self::open_version(path, all_links, None)
    }

    /// Opens a model to run as [`Self::open_to_run`] does; of a folder of Triton, each version that its `version_policy`
    /// allows, from the lowest to the highest.
    ///
    /// # Errors
    ///
    /// Returns any error of [`Self::open_to_run`].
    pub fn open_versions_to_run(path: &Path) -> Result<Vec<Self>, InspectError> {
        let highest = Self::open_to_run(path)?;
        if highest.configured.allowed.len() < 2 {
            return Ok(vec![highest]);
        }
        let one = |version: &u64| Self::open_version(path, false, Some(*version))?.to_run();
        highest.configured.allowed.iter().map(one).collect()
    }

    fn open_version(path: &Path, all_links: bool, version: Option<u64>) -> Result<Self, InspectError> {
        let mut links = Links::of(path, all_links)?;
        let layout = match path.is_dir() {
            true => in_folder(path, &links, version)?,
            false => Layout::new(path.to_owned()),
        };
        let named = layout.file;
        let inspection = match inspect_with(&named, &links) {
            // The file alone is a link, and its data lies beside the file that it leads to.
            Err(InspectError::MissingData { .. }) if named.is_symlink() => {
                let real = links.open(&named)?.real;
                if !path.is_dir() {
                    links = Links::of(&real, all_links)?;
                }
                inspect_with(&real, &links)?
            }
            outcome => outcome?,
        };
        let beside = |name| Some(inspection.path.with_file_name(name)).filter(|path| path.is_file());
        let mut source = Self {
            name: layout.name.unwrap_or_else(|| name(&named)),
            configured: layout.configured,
            sample: beside("sample.json").or(layout.sample),
            engine: DEFAULT_ENGINE.to_owned(),
            description: beside(DERIVED),
            outside: Vec::new(),
            inspection,
            links,
        };
        if let Some(path) = &source.description {
            source.engine = engine_of(source.open_file(path)?, path)?;
        }
        source.outside = source.find_outside()?;
        Ok(source)
    }

    /// Does the same as [`Self::open`], and refuses a model file that is too large for any engine to load.
    ///
    /// # Errors
    ///
    /// Returns [`InspectError::TooLarge`] if the file has 2 GiB or more, or any error of [`Self::open`].
    pub fn open_to_run(path: &Path) -> Result<Self, InspectError> {
        Self::open(path)?.to_run()
    }

    /// Returns the model unchanged, unless no engine can load it.
    ///
    /// # Errors
    ///
    /// Returns [`InspectError::TooLarge`] if the file has 2 GiB or more.
    pub fn to_run(self) -> Result<Self, InspectError> {
        let Inspection { path, size, .. } = &self.inspection;
        if *size > MAX_MODEL {
            return Err(InspectError::TooLarge { path: path.clone(), size: *size });
        }
        Ok(self)
    }

    /// Returns a hash (hexadecimal) of what decides how the model runs: opsets, operators, parameter count, signature
    /// and approximate size. A retrained version of the same network has the same hash.
    pub fn likeness(&self) -> String {
        let Inspection { opsets, signature, operators, parameters, size, external_data, .. } =
            &self.inspection;
        let bytes = size + external_data.iter().map(|file| file.size).sum::<u64>();
        // Only the top four bits of the size count: descriptions and metadata may differ by some bytes.
        let zeros = bytes.max(8).ilog2() - 3;
        let about = (bytes >> zeros) << zeros;
        hex(&Sha256::digest(format!("{opsets:?} {signature:?} {operators:?} {parameters} {about}")))
    }

    /// Computes the [`digest`](fn@crate::digest) of the model file and its external data.
    ///
    /// # Errors
    ///
    /// Returns [`InspectError::Io`] if a file cannot be read.
    pub fn digest(&self) -> Result<String, InspectError> {
        let mut digests = Vec::new();
        for (name, path) in self.files() {
            let io = |source| InspectError::Io { path: path.clone(), source };
            let digest = crate::digest::digest_of_file(self.open_file(&path)?).map_err(io)?;
            digests.push((name, digest));
        }
        Ok(digest_of(digests.iter().map(|(name, digest)| (&**name, &**digest))))
    }

    /// Returns the model file and its external data, each as its path in the model's folder and its path on this
    /// machine. The model file is first.
    pub(crate) fn files(&self) -> Vec<(PathBuf, PathBuf)> {
        let path = &self.inspection.path;
        let model = (path.file_name().map(PathBuf::from).unwrap_or_default(), path.clone());
        let external = self.inspection.external_data.iter().map(|file| {
            let name: PathBuf = Path::new(&file.location).components().collect();
            (name.clone(), folder_of(path).join(name))
        });
        std::iter::once(model).chain(external).collect()
    }

    /// Returns all files that make up the model, each as its path in the model's folder and its path on this machine: the
    /// model file, its external data, its `drisse.json`, and its sample as `sample.json`. The model file is first.
    pub fn contents(&self) -> Vec<(PathBuf, PathBuf)> {
        let described = self.description.iter().map(|path| (PathBuf::from(DERIVED), path.clone()));
        let sample = self.sample.iter().map(|path| (PathBuf::from("sample.json"), path.clone()));
        self.files().into_iter().chain(described).chain(sample).collect()
    }

    /// Opens a file of the model, or its sample.
    ///
    /// # Errors
    ///
    /// Returns [`InspectError::Link`] if a link leads out of the model's folder, or [`InspectError::Io`] if the file
    /// cannot be opened or is not a regular one.
    pub fn open_file(&self, path: &Path) -> Result<File, InspectError> {
        Ok(self.links.open(path)?.file)
    }

    fn find_outside(&self) -> Result<Vec<(PathBuf, PathBuf)>, InspectError> {
        let beside = self.sample.iter().chain(&self.description).cloned();
        let mut outside = Vec::new();
        for path in self.files().into_iter().map(|(_, path)| path).chain(beside) {
            let opened = self.links.open(&path)?;
            if opened.outside {
                outside.push((path, opened.real));
            }
        }
        Ok(outside)
    }
}

/// Reads the engine that a package's description names.
fn engine_of(file: File, path: &Path) -> Result<String, InspectError> {
    let io = |source| InspectError::Io { path: path.to_owned(), source };
    let mut text = Vec::new();
    file.take(MAX_DESCRIPTION).read_to_end(&mut text).map_err(io)?;
    engine_in(&text).map_err(|why| InspectError::Description { path: path.to_owned(), why })
}

/// Finds the model in a folder.
fn in_folder(folder: &Path, links: &Links, version: Option<u64>) -> Result<Layout, InspectError> {
    if let Some(layout) = Layout::of(folder, links, version)? {
        return Ok(layout);
    }
    let found = only_model(folder);
    if matches!(found, Err(InspectError::Folder { .. })) && models_in(folder)?.is_empty() {
        check_no_repository(folder)?;
    }
    found.map(Layout::new)
}

/// Returns the path of the `model.onnx` or of the only `.onnx` file in a folder.
pub(crate) fn only_model(folder: &Path) -> Result<PathBuf, InspectError> {
    let named = folder.join("model.onnx");
    if named.is_file() {
        return Ok(named);
    }
    if folder.join("saved_model.pb").exists() {
        return inspect(&folder.join("saved_model.pb")).map(|found| found.path);
    }
    let what = match &*models_in(folder)? {
        [one] => return Ok(one.clone()),
        [] => "holds no .onnx file".to_owned(),
        several => {
            let names: Vec<_> =
                several.iter().take(5).filter_map(|path| path.file_name()?.to_str()).collect();
            format!("holds {} .onnx files: {}", several.len(), names.join(", "))
        }
    };
    Err(InspectError::Folder { path: folder.to_owned(), what })
}

/// Returns the paths of the `.onnx` files in a folder, by name.
pub(crate) fn models_in(folder: &Path) -> Result<Vec<PathBuf>, InspectError> {
    let io = |source| InspectError::Io { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "onnx") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the stem of a model's file or, if that is generic (`model`, a version number), the name of the first folder
/// above it that is not. In a Hugging Face cache that is the name of the repository.
fn name(file: &Path) -> String {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    let stem = absolute.file_stem().map(text).unwrap_or_default();
    let folders = absolute.ancestors().skip(1).filter_map(Path::file_name).map(text);
    let is_version = |name: &str| {
        let number = name.strip_prefix('v').unwrap_or(name);
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut names = std::iter::once(stem.clone()).chain(folders);
    let repository = hub_repository(&absolute).and_then(Path::file_name).map(text);
    if let Some(repository) = repository.filter(|_| stem == "model") {
        return repository.rsplit("--").next().map(str::to_owned).unwrap_or(stem);
    }
    names.find(|name| name != "model" && !is_version(name)).unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_other_weights_are_alike_and_those_of_another_size_are_not() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx");
        let mut model = ModelSource::open(&example).unwrap();
        let likeness = model.likeness();
        model.inspection.size += 3;
        model.inspection.description = "trained on Tuesday".to_owned();
        assert_eq!(model.likeness(), likeness);
        model.inspection.size *= 2;
        assert_ne!(model.likeness(), likeness);
        model.inspection.size = 0;
        model.likeness();
    }

    #[test]
    fn a_generic_stem_takes_the_folders_name() {
        assert_eq!(name(Path::new("/models/digits/model.onnx")), "digits");
        assert_eq!(name(Path::new("/models/digits/mlp.v2.onnx")), "mlp.v2");
        assert_eq!(name(Path::new("/models/densenet_onnx/1/model.onnx")), "densenet_onnx");
        assert_eq!(name(Path::new("/models/churn/v3.onnx")), "churn");
        assert_eq!(name(Path::new("/1/model.onnx")), "model");
    }

    #[test]
    fn the_description_beside_a_model_names_its_engine() {
        let folder = tempfile::tempdir().unwrap();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/wine/wine.onnx");
        let (model, description) = (folder.path().join("wine.onnx"), folder.path().join(DERIVED));
        std::fs::copy(example, &model).unwrap();
        assert_eq!(ModelSource::open(&model).unwrap().engine, "onnx");
        for (text, engine) in [("{}", "onnx"), ("{\"engine\":\"npu\",\"schema\":1}", "npu")] {
            std::fs::write(&description, text).unwrap();
            assert_eq!(ModelSource::open(&model).unwrap().engine, engine);
        }
        for broken in ["", "{\"engine\":1}"] {
            std::fs::write(&description, broken).unwrap();
            let error = ModelSource::open(&model).unwrap_err();
            assert!(matches!(error, InspectError::Description { .. }), "{error}");
        }
    }

    #[test]
    fn a_folder_must_have_one_model() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |folder: &Path| ModelSource::open(folder).unwrap_err().to_string();
        assert!(refused(folder.path()).ends_with("holds no .onnx file"));
        for name in ["b.onnx", "a.onnx"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(refused(folder.path()).ends_with("holds 2 .onnx files: a.onnx, b.onnx"));
    }
}
