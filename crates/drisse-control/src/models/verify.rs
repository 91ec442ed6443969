//! Verifies every byte of models, and repairs damaged models.

use super::Models;
use super::samples::{MAX_SAMPLE, made_sample};
use crate::blocking::blocking;
use crate::db::models::ModelParts;
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_registry::{Blob, BlobState, Manifest, ModelSource, Store};
use drisse_wire::control::RepairRequest;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The maximum number of files in the folders that the user names.
const MAX_FILES: usize = 100_000;

impl Models {
    /// Verifies models. With a request to repair, repairs damaged ones, also from the files and folders it names.
    pub(crate) async fn verify(
        self: &Arc<Self>,
        progress: &Arc<Progress>,
        wanted: Option<&str>,
        repair: Option<RepairRequest>,
    ) -> Result<Value> {
        let parts = self.every(wanted).await?;
        let (models, progress) = (Arc::clone(self), Arc::clone(progress));
        let (count, repairs) = (parts.len(), repair.is_some());
        let checked = blocking(move || {
            let from = repair.map(|request| files(&request.from)).transpose()?;
            let (mut good, mut damaged, mut repaired) = (HashSet::new(), Vec::new(), Vec::new());
            for model in parts {
                let name = format!("{}:{}", model.name, model.version);
                let mut faults = faults(&models.store, &model, &mut good);
                if faults.is_empty() {
                    continue;
                }
                progress.add(format!("{name} is damaged: {}", faults.join("; ")));
                if let Some(from) = &from {
                    let tell = |what: String| progress.add(format!("{name}: {what}"));
                    // A repair that failed may have restored some blobs.
                    if let Err(error) = models.repair(&model, from, &tell) {
                        tell(format!("cannot be repaired: {}", error.failure.message));
                    }
                    let model = models.runtime.block_on(models.every(Some(&name)))?;
                    faults = self::faults(&models.store, &model[0], &mut good);
                }
                if faults.is_empty() {
                    progress.add(format!("{name} is repaired"));
                    repaired.push(name);
                } else {
                    damaged.push((name, faults.join("; ")));
                }
            }
            Ok((damaged, repaired))
        });
        let (damaged, repaired) = checked.await?;
        if !repaired.is_empty() {
            self.changed.notify_one();
        }
        if !damaged.is_empty() {
            return Err(damage_error(&damaged, repairs));
        }
        Ok(json!({ "models": count, "repaired": repaired }))
    }

    /// Restores a model's damaged blobs from files with the same bytes, and rebuilds its package and view.
    fn repair(&self, model: &ModelParts, from: &[PathBuf], tell: &dyn Fn(String)) -> Result<()> {
        let store = &self.store;
        // Until the database refers to the blobs, they must not be collected.
        let _packing = store.packing();
        let view = store.existing_view(&model.digest).ok();
        let source = model.source.as_deref().map(Path::new);
        let beside: Vec<_> = view.iter().map(|view| &**view).chain(source.and_then(Path::parent)).collect();
        let manifest = store.manifest(&model.package).ok();
        for (path, blob) in manifest.iter().flat_map(Manifest::content) {
            if store.check(&blob.digest)? == BlobState::Good {
                continue;
            }
            let named = beside.iter().map(|folder| folder.join(&path));
            match store.repair(&blob, named.chain(from.iter().cloned()))? {
                Some(file) => tell(format!("restored {} from {}", path.display(), file.display())),
                None => tell(format!("no file has the contents of {}", path.display())),
            }
        }
        let model_files = from.iter().filter(|file| file.extension().is_some_and(|end| end == "onnx"));
        let model_files = model_files.map(|file| &**file).chain(source);
        let (laid_out, sample) = match &manifest {
            Some(manifest) => {
                // The view may link to damaged files, so it is rebuilt from the intact blobs.
                store.forget_view(&model.digest);
                let kept =
                    |blob: &Blob| store.check(&blob.digest).is_ok_and(|state| state == BlobState::Good);
                let files = manifest.content().filter(|(_, blob)| kept(blob));
                let files: Vec<_> = files.map(|(path, blob)| (path, blob.digest)).collect();
                let view = store.view(&model.digest, &files)?;
                let sample = manifest.sample().and_then(|sample| store.read(sample).ok());
                (manifest.model_file().map(|file| view.join(file)), sample)
            }
            None => {
                let sample = view.as_ref().and_then(|view| std::fs::read(view.join("sample.json")).ok());
                (view.clone(), sample)
            }
        };
        let mut sources = laid_out.iter().map(|path| &**path).chain(model_files);
        let whole = |path: &&Path| {
            let source = ModelSource::open(path).ok()?;
            source.digest().is_ok_and(|digest| digest == model.digest).then_some(source)
        };
        let packed = match sources.find_map(|path| whole(&path)) {
            Some(found) => self.pack_again(model, &found, sample, tell),
            None => Err(ControlError::invalid("no file or folder contains the whole model")),
        };
        // The view is rebuilt when it is needed.
        store.forget_view(&model.digest);
        packed
    }

    /// Rebuilds the package of an intact model. The digest stays the same unless the sample is lost.
    fn pack_again(
        &self,
        model: &ModelParts,
        source: &ModelSource,
        sample: Option<Vec<u8>>,
        tell: &dyn Fn(String),
    ) -> Result<()> {
        let ingested = self.store.ingest(source, &|_| ())?;
        let beside = source.sample.as_deref().and_then(|sample| {
            let mut bytes = Vec::new();
            source.open_file(sample).ok()?.take(MAX_SAMPLE).read_to_end(&mut bytes).ok().map(|_| bytes)
        });
        let made = made_sample(&source.inspection.signature);
        let samples = [sample.clone(), beside, made.clone(), None];
        let pack = |sample: Option<&[u8]>| self.store.pack(&ingested, &model.name, model.version, sample);
        for sample in &samples {
            if pack(sample.as_deref())? == model.package {
                return Ok(());
            }
        }
        let package = pack(sample.or(made).as_deref())?;
        tell("its sample is lost and was replaced".to_owned());
        self.runtime.block_on(async {
            let _models = self.lock().await;
            self.db.set_package(&model.name, model.version, &package).await
        })
    }
}

/// Returns the faults of a model's blobs and its view. `good` holds the digests of blobs that are known to be intact.
fn faults(store: &Store, model: &ModelParts, good: &mut HashSet<String>) -> Vec<String> {
    let manifest = match store.manifest(&model.package) {
        Ok(manifest) => manifest,
        Err(error) => return vec![error.to_string()],
    };
    let mut faults = Vec::new();
    for (path, Blob { digest, .. }) in manifest.every_blob() {
        if good.contains(&digest) {
            continue;
        }
        match store.check(&digest) {
            Ok(BlobState::Good) => drop(good.insert(digest)),
            Ok(BlobState::Corrupt) => {
                faults.push(format!("{path}: the contents of blob {digest} do not match its digest"));
            }
            Ok(BlobState::Missing) => faults.push(format!("{path}: blob {digest} is missing")),
            Err(error) => faults.push(format!("{path}: {error}")),
        }
    }
    let laid_out = store.view_faults(&model.digest, &manifest).into_iter();
    faults.extend(laid_out.map(|path| format!("{} is damaged", path.display())));
    faults
}

/// Returns the error that models, each with its faults, are damaged.
fn damage_error(damaged: &[(String, String)], repairs: bool) -> ControlError {
    let rest = if damaged.len() > 1 { format!(" and {} more", damaged.len() - 1) } else { String::new() };
    let name = damaged.first().map_or("", |(name, _)| name);
    let hint = match repairs {
        false => "`drisse models verify --repair` restores what it can",
        true => {
            "name files or folders that contain the missing files (`drisse models verify --repair --from PATH`), or \
             register the model's files again"
        }
    };
    let mut error = ControlError::invalid(format!("model `{name}`{rest} is damaged")).hint(hint);
    error.failure.causes = damaged.iter().map(|(name, faults)| format!("{name}: {faults}")).collect();
    error
}

/// Returns the named files, and the files in the named folders.
fn files(named: &[String]) -> Result<Vec<PathBuf>> {
    let named: Vec<_> = named.iter().map(PathBuf::from).collect();
    let (mut found, mut left) = (Vec::new(), named.clone());
    while let Some(path) = left.pop() {
        let unread = |error: std::io::Error| {
            ControlError::invalid(format!("cannot read {}", path.display())).because(&error)
        };
        // Links in a folder are not followed, because they could form a cycle.
        let kind = path.symlink_metadata().map_err(unread)?;
        if kind.is_dir() || named.contains(&path) && path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(unread)? {
                left.push(entry.map_err(unread)?.path());
            }
        } else {
            found.push(path);
        }
        if found.len() > MAX_FILES {
            return Err(ControlError::invalid(format!("there are more than {MAX_FILES} files to search"))
                .hint("name a folder that contains fewer files"));
        }
    }
    Ok(found)
}
