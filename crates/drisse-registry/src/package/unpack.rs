//! Unpacking the packages of other tools into the store: the one ONNX model in them, with its external data and sample.

use super::other::{Form, Kind, OtherLayer, OtherPackage, named};
use super::{Ingested, SAMPLE, digest_of, enclosing, is_onnx};
use crate::archive::{Refused, Stream};
use crate::blobs::{Blob, BlobState, Store};
use crate::{ModelSource, StoreError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// An archive may unpack to this many bytes (256 MiB), or to `MAX_RATIO` times its size if that is more.
const MAX_SMALL: u64 = 256 << 20;
const MAX_RATIO: u64 = 100;

/// Most files of a package.
const MAX_FILES: usize = 10_000;

/// The folder of the models in an image, as KServe has it, and the entry that removes it.
const MODELS: &str = "models/";
const NO_MODELS: &str = ".wh.models";

/// A package of another tool whose files are in the store, and in a view under the package's digest.
#[derive(Debug)]
pub struct Unpacked {
    /// The path of the model file in the view.
    pub model: PathBuf,
    files: BTreeMap<PathBuf, Blob>,
}

impl Unpacked {
    /// Returns the model as [`Store::ingest`] returns it for its files. `source` is the opened [`Self::model`].
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Changed`] if the model refers to a file that was not in the package.
    pub fn ingested(&self, source: &ModelSource) -> Result<Ingested, StoreError> {
        let name = source.inspection.path.file_name().map(PathBuf::from).unwrap_or_default();
        let external = source.inspection.external_data.iter();
        let external = external.map(|file| Path::new(&file.location).components().collect());
        let found = |path: PathBuf| match self.files.get(&path) {
            Some(blob) => Ok((path, blob.clone())),
            None => Err(StoreError::Changed { path }),
        };
        let files: Vec<_> = std::iter::once(name).chain(external).map(found).collect::<Result<_, _>>()?;
        let digest = digest_of(files.iter().map(|(path, blob)| (&**path, &*blob.digest)));
        let (engine, inspection) = (source.engine.clone(), source.inspection.clone());
        Ok(Ingested { digest, engine, inspection, files })
    }
}

/// What is in a package.
#[derive(Default)]
struct Found {
    files: BTreeMap<String, Blob>,
    /// ONNX models of an image that are not in its folder of models.
    elsewhere: Vec<String>,
}

impl Store {
    /// Copies the files of another tool's package from a layout into this store, and makes a view of the one ONNX model
    /// among them under the package's digest. Remove that with [`Self::forget_view`]. Hold a [`Self::packing`] guard.
    ///
    /// # Errors
    ///
    /// Returns [`StoreError::Package`] if the package does not hold exactly one ONNX model or is damaged, or another
    /// error if a blob is missing or cannot be written.
    pub fn unpack(&self, layout: &Self, digest: &str) -> Result<Unpacked, StoreError> {
        let package = OtherPackage::read(&layout.read(digest)?)
            .map_err(|why| StoreError::Manifest { digest: digest.to_owned(), why })?;
        let diff_ids = self.diff_ids(layout, &package)?;
        let mut found = Found::default();
        for layer in &package.layers {
            match &layer.form {
                Form::File(path) => {
                    self.adopt(layout, &layer.blob)?;
                    found.add(&package, path.clone(), layer.blob.clone())?;
                }
                Form::Archive(compression) => {
                    let file = self.open_blob(layout, &layer.blob)?;
                    let stream = compression.reader(file);
                    self.unpack_layer(&package, layer, stream, diff_ids.get(layer.nth), &mut found)?;
                }
            }
        }
        let model = found.model(&package)?;
        let files = beside(&model, found.files);
        let name = Path::new(&model).file_name().unwrap_or_default();
        let linked: Vec<_> = files.iter().map(|(path, blob)| (path.clone(), blob.digest.clone())).collect();
        // A view of an earlier attempt may link to blobs that have been replaced since.
        self.forget_view(digest);
        Ok(Unpacked { model: self.view(digest, &linked)?.join(name), files })
    }

    /// Copies a blob from a layout.
    fn adopt(&self, layout: &Self, blob: &Blob) -> Result<(), StoreError> {
        if self.check(&blob.digest)? == BlobState::Good {
            return Ok(());
        }
        let kept = self.put_file(&layout.path(&blob.digest)?, &|_| ())?;
        let damaged = || StoreError::Corrupt { digest: blob.digest.clone() };
        if kept == *blob { Ok(()) } else { Err(damaged()) }
    }

    /// Opens an undamaged blob of this store or the layout.
    fn open_blob(&self, layout: &Self, blob: &Blob) -> Result<File, StoreError> {
        for store in [self, layout] {
            if store.check(&blob.digest)? == BlobState::Good {
                let path = store.path(&blob.digest)?;
                return crate::digest::open(&path).map_err(|error| StoreError::io("read", &path, error));
            }
        }
        Err(StoreError::Missing { digest: blob.digest.clone() })
    }

    /// Returns the digests of the uncompressed layers in a package's config; empty if it does not have them.
    fn diff_ids(&self, layout: &Self, package: &OtherPackage) -> Result<Vec<Value>, StoreError> {
        let Some(config) = package.config() else { return Ok(Vec::new()) };
        let mut text = Vec::new();
        let read = self.open_blob(layout, config)?.take(config.size).read_to_end(&mut text);
        read.map_err(|error| StoreError::io("read", layout.root(), error))?;
        let config: Value = serde_json::from_slice(&text).unwrap_or_default();
        let lists =
            [&config["modelfs"]["diffIds"], &config["modelfs"]["diff_ids"], &config["rootfs"]["diff_ids"]];
        let found = lists.into_iter().find_map(Value::as_array).cloned().unwrap_or_default();
        if found.is_empty() || found.len() == package.count {
            return Ok(found);
        }
        Err(package.refused(format!(
            "whose manifest has {} layers, and whose config {}",
            package.count,
            found.len()
        )))
    }

    fn unpack_layer(
        &self,
        package: &OtherPackage,
        layer: &OtherLayer,
        stream: impl Read,
        diff_id: Option<&Value>,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let name = &layer.blob.digest;
        let failed =
            |why: &dyn std::fmt::Display| package.refused(format!("whose layer {name} is damaged: {why}"));
        let stream = Stream::new(stream, MAX_SMALL.max(layer.blob.size.saturating_mul(MAX_RATIO)));
        let (is_image, mut own, mut removed) = (package.kind == Kind::Image, Vec::new(), Vec::new());
        let wants = |name: &str| {
            let is_model = !is_image || name.trim_start_matches('/').starts_with(MODELS) || name == NO_MODELS;
            if !is_model && is_onnx(name) && found.elsewhere.len() < MAX_FILES {
                found.elsewhere.push(name.to_owned());
            }
            is_model
        };
        let take = |path: &str, _: u64, data: &mut dyn Read| {
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
            match name.strip_prefix(".wh.").filter(|_| is_image) {
                // Whiteouts of an image remove what is in the layers below: the folder's contents, or one entry.
                Some(".wh..opq") => removed.push(PathBuf::from(folder)),
                Some(name) => removed.push(Path::new(folder).join(name)),
                None if own.len() == MAX_FILES => {
                    return Err(Failed::Refused(format!("it has more than {MAX_FILES} files")));
                }
                None => own.push((path.to_owned(), self.put(|out| io::copy(data, out).map(drop))?)),
            }
            Ok(())
        };
        stream.files(wants, take).map_err(|error: Failed| match error {
            Failed::Store(error) => error,
            Failed::Refused(why) => failed(&why),
        })?;
        let unpacked = stream.digest().map_err(|why| failed(&why))?;
        let said = layer.unpacked.as_deref().or(diff_id.and_then(Value::as_str));
        if let Some(said) = said.filter(|said| said.starts_with("sha256:") && **said != unpacked) {
            return Err(failed(&format!("it unpacks to {unpacked}, and not to {said}")));
        }
        found.files.retain(|path, _| !removed.iter().any(|gone| Path::new(path).starts_with(gone)));
        for (path, blob) in own {
            found.add(package, path, blob)?;
        }
        Ok(())
    }
}

/// Why a layer cannot be unpacked: because of the store, or because of the layer.
enum Failed {
    Store(StoreError),
    Refused(String),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refused> for Failed {
    fn from(Refused(why): Refused) -> Self {
        Self::Refused(why)
    }
}

impl OtherPackage {
    /// Returns the error of a package that cannot be registered. `what` follows its kind.
    fn refused(&self, what: String) -> StoreError {
        StoreError::Package { kind: self.kind.name(), what }
    }
}

impl Found {
    /// Adds a file. A layer of an image replaces the files of those below it.
    fn add(&mut self, package: &OtherPackage, path: String, blob: Blob) -> Result<(), StoreError> {
        if self.files.len() >= MAX_FILES {
            return Err(package.refused(format!("with more than {MAX_FILES} files")));
        }
        match self.files.insert(path.clone(), blob) {
            Some(_) if package.kind != Kind::Image => {
                Err(package.refused(format!("whose layers have the file `{path}` twice")))
            }
            _ => Ok(()),
        }
    }

    /// Returns the path of the one ONNX model.
    fn model(&self, package: &OtherPackage) -> Result<String, StoreError> {
        let paths = self.files.keys().map(Path::new).collect();
        if let Some(inside) = enclosing(&paths) {
            return Err(
                package.refused(format!("whose file `{}` is inside a path that is a file", inside.display()))
            );
        }
        let models: Vec<_> = self.files.keys().filter(|path| is_onnx(path)).collect();
        let place = if package.kind == Kind::Image { " below /models" } else { "" };
        match (&*models, self.files.len(), &*self.elsewhere) {
            ([one], ..) => Ok((*one).clone()),
            // Its inspection says which format it has, and how it is converted.
            ([], 1, []) => Ok(self.files.keys().next().cloned().unwrap_or_default()),
            ([], _, []) => {
                let all: Vec<_> = self.files.keys().collect();
                Err(package
                    .refused(format!("without an ONNX model{place}; its files there are {}", named(&all))))
            }
            ([], _, elsewhere) => Err(package
                .refused(format!("without an ONNX model{place}; elsewhere it has {}", named(elsewhere)))),
            (several, ..) => {
                Err(package.refused(format!("with {} ONNX models{place}: {}", several.len(), named(several))))
            }
        }
    }
}

/// Returns the files beside a model and in the folders there, by their paths from there. A sample that is elsewhere in the
/// package is put beside the model if it is the only one.
fn beside(model: &str, files: BTreeMap<String, Blob>) -> BTreeMap<PathBuf, Blob> {
    let folder = Path::new(model).parent().unwrap_or(Path::new(""));
    let samples: Vec<_> = files.iter().filter(|(path, _)| Path::new(path).ends_with(SAMPLE)).collect();
    let sample = match &*samples {
        [(_, sample)] => Some((PathBuf::from(SAMPLE), (*sample).clone())),
        _ => None,
    };
    let own = files.iter().filter_map(|(path, blob)| {
        let path = Path::new(path).strip_prefix(folder).ok()?;
        Some((path.to_owned(), blob.clone()))
    });
    sample.into_iter().chain(own).collect()
}

#[cfg(test)]
mod tests;
