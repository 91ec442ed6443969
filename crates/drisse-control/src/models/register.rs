//! Registers models: from their files here, from packages in `import.rs`.

use super::Models;
use super::samples::sample;
use crate::blocking::blocking;
use crate::db::models::ModelRow;
use crate::db::now;
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_core::{ModelName, crash_point};
use drisse_registry::{Ingested, ModelSource, signature_document};
use drisse_wire::control::{ModelChange, RegisterRequest};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of bytes after which progress is reported.
const PROGRESS: u64 = 256 << 20;

impl Models {
    /// Registers the files or the package that the request names. If `name` has a version with the same files, returns
    /// that version.
    pub(crate) async fn register(
        self: &Arc<Self>,
        progress: &Arc<Progress>,
        name: &str,
        mut request: RegisterRequest,
    ) -> Result<ModelRow> {
        name.parse::<ModelName>()
            .map_err(|error| ControlError::invalid("cannot register the model").because(&error))?;
        let (tags, properties) = (request.tags.take(), request.properties.take().unwrap_or_default());
        let (models, progress, name) = (Arc::clone(self), Arc::clone(progress), name.to_owned());
        let row = blocking(move || match &request.package {
            Some(package) => models.import(&progress, &name, package, &request),
            None => models.register_files(&progress, &name, &request),
        })
        .await?;
        self.changed.notify_one();
        let replace = tags.is_some();
        if !replace && properties.is_empty() {
            return Ok(row);
        }
        let _models = self.lock().await;
        let change = ModelChange { tags: tags.unwrap_or_default(), properties, ..ModelChange::default() };
        self.db.change_model(&row.name, Some(row.version), &change, replace).await
    }

    /// Registers a model from its files, here or uploaded. Blocks on the disk.
    fn register_files(&self, progress: &Progress, name: &str, request: &RegisterRequest) -> Result<ModelRow> {
        let Some(uploaded) = &request.uploaded else {
            return self.register_at(progress, name, request, None);
        };
        for file in std::iter::once(&uploaded.model).chain(&request.sample) {
            if !uploaded.files.contains_key(file) {
                return Err(ControlError::invalid(format!(
                    "`{}` is not one of the uploaded files",
                    file.escape_debug()
                )));
            }
        }
        let folder = self.uploads.stage(&uploaded.files)?;
        let registered = self.register_at(progress, name, request, Some((folder.path(), &uploaded.model)));
        // The names of the files without that of the folder, which clients do not know.
        registered.map_err(|error| error.without(&format!("{}/", folder.path().display())))
    }

    /// Registers a model from its files: those that the request names, or an uploaded model file in its folder.
    fn register_at(
        &self,
        progress: &Progress,
        name: &str,
        request: &RegisterRequest,
        uploaded: Option<(&Path, &str)>,
    ) -> Result<ModelRow> {
        let in_folder = |path: &str| uploaded.map_or(path.into(), |(folder, _)| folder.join(path));
        let file = in_folder(uploaded.map_or(&request.path, |(_, model)| model));
        // There are no links among uploaded files.
        let follow_links = request.follow_links && uploaded.is_none();
        let source = ModelSource::open_following(&file, follow_links)?.to_run()?;
        let named = request.sample.as_deref().map(in_folder);
        let (sample, given) = sample(&source, named.as_deref(), &|line| progress.add(line))?;
        let (copied, size) = (AtomicU64::new(0), size_of(&source));
        let copy = |bytes: u64| {
            let before = copied.fetch_add(bytes, Relaxed);
            if before / PROGRESS != (before + bytes) / PROGRESS {
                progress.add(format!("copied {} of {} MiB", (before + bytes) >> 20, size >> 20));
            }
        };
        let store = &self.store;
        // Until the database refers to the blobs, they must not be collected.
        let _packing = store.packing();
        let model = store.ingest(&source, &copy).map_err(|error| {
            ControlError::from(error).context(format!("cannot register {}", file.display()))
        })?;
        crash_point("a model's files are in the store");
        let path = source.inspection.path.to_str().filter(|_| uploaded.is_none()).map(str::to_owned);
        self.runtime.block_on(self.insert(progress, name, &Stored { model, sample, given, path }))
    }

    /// Packs a model whose files are in the store and inserts its row, or returns the version that has these files.
    pub(super) async fn insert(&self, progress: &Progress, name: &str, stored: &Stored) -> Result<ModelRow> {
        let Stored { model, sample, given, path } = stored;
        // The lock makes sure that each registration gets its own version.
        let _models = self.lock().await;
        if let Some(there) = self.db.model_by_digest(name, &model.digest).await? {
            if path.is_some() && there.source != *path {
                self.db.set_source(&there.name, there.version, path.as_deref()).await?;
            }
            return refresh(self, there, model, sample.as_deref(), *given).await;
        }
        let version = self.db.next_version(name).await?;
        let package = self.store.pack(model, name, version, sample.as_deref())?;
        crash_point("a model is packed");
        let row = ModelRow {
            name: name.to_owned(),
            version,
            digest: model.digest.clone(),
            package,
            size: model.files.iter().map(|(_, blob)| blob.size).sum(),
            framework: model.inspection.framework.map(str::to_owned),
            signature: signature_document(&model.inspection.signature),
            created: now(),
            source: path.clone(),
            ..ModelRow::default()
        };
        self.db.insert_model(&row).await?;
        progress.add(format!("registered {}", row.full_name()));
        Ok(row)
    }
}

/// A model whose files are in the store.
pub(super) struct Stored {
    pub(super) model: Ingested,
    /// The sample to pack, and whether it is a given one.
    pub(super) sample: Option<Vec<u8>>,
    pub(super) given: bool,
    /// The path of the file from which the model was registered.
    pub(super) path: Option<String>,
}

/// Returns the size of a model's files in bytes.
pub(super) fn size_of(source: &ModelSource) -> u64 {
    source.inspection.size + source.inspection.external_data.iter().map(|file| file.size).sum::<u64>()
}

/// Updates a model that is already registered: restores damaged files, and replaces its sample if another one was
/// given.
async fn refresh(
    models: &Models,
    there: ModelRow,
    model: &Ingested,
    sample: Option<&[u8]>,
    given: bool,
) -> Result<ModelRow> {
    let store = &models.store;
    if model.view_is_stale(store) {
        store.forget_view(&there.digest);
    }
    let whole = store
        .manifest(&there.package)
        .is_ok_and(|manifest| manifest.sample().is_none_or(|sample| store.read(sample).is_ok()));
    if whole && !given {
        return Ok(there);
    }
    let package = store.pack(model, &there.name, there.version, sample)?;
    if package == there.package {
        return Ok(there);
    }
    models.db.set_package(&there.name, there.version, &package).await?;
    store.forget_view(&there.digest);
    Ok(ModelRow { package, ..there })
}
