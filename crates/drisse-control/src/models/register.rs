//! Registers models from their files.

use super::Models;
use super::samples::sample;
use crate::blocking::blocking;
use crate::db::models::{ModelRow, Tags};
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_core::{ModelName, crash_point};
use drisse_registry::{ModelSource, signature_document};
use drisse_wire::control::ModelChange;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of bytes after which progress is reported.
const PROGRESS: u64 = 256 << 20;

/// A model to register.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) sample: Option<PathBuf>,
    pub(crate) tags: Option<Tags>,
    pub(crate) properties: Tags,
}

impl Models {
    /// Registers a model. If the name has a version with the same files, returns that version.
    pub(crate) async fn register(
        self: &Arc<Self>,
        progress: &Arc<Progress>,
        what: Registration,
    ) -> Result<ModelRow> {
        what.name
            .parse::<ModelName>()
            .map_err(|error| ControlError::invalid("cannot register the model").because(&error))?;
        let (models, progress) = (Arc::clone(self), Arc::clone(progress));
        let change = ModelChange {
            tags: what.tags.clone().unwrap_or_default(),
            properties: what.properties.clone(),
            ..ModelChange::default()
        };
        let replace = what.tags.is_some();
        let row = blocking(move || {
            let shown = what.path.display();
            let source = ModelSource::open_to_run(&what.path)?;
            let (sample, given) = sample(&source, what.sample.as_deref(), &|line| progress.add(line))?;
            let copied = AtomicU64::new(0);
            let total = source.inspection.size
                + source.inspection.external_data.iter().map(|file| file.size).sum::<u64>();
            let copy = |bytes: u64| {
                let before = copied.fetch_add(bytes, Relaxed);
                if before / PROGRESS != (before + bytes) / PROGRESS {
                    progress.add(format!("copied {} of {} MiB", (before + bytes) >> 20, total >> 20));
                }
            };
            let store = &models.store;
            // Until the database refers to the blobs, they must not be collected.
            let packing = store.packing();
            let model = store
                .ingest(&source, &copy)
                .map_err(|error| ControlError::from(error).context(format!("cannot register {shown}")))?;
            crash_point("a model's files are in the store");
            let registered = models.runtime.block_on(async {
                // The lock makes sure that each registration gets its own version.
                let _models = models.lock().await;
                let db = &models.db;
                let path = source.inspection.path.to_str().map(str::to_owned);
                if let Some(there) = db.model_by_digest(&what.name, &model.digest).await? {
                    if there.source != path {
                        db.set_source(&there.name, there.version, path.as_deref()).await?;
                    }
                    return refresh(&models, there, &model, sample.as_deref(), given).await;
                }
                let version = db.next_version(&what.name).await?;
                let package = store.pack(&model, &what.name, version, sample.as_deref())?;
                crash_point("a model is packed");
                let row = ModelRow {
                    name: what.name.clone(),
                    version,
                    digest: model.digest.clone(),
                    package,
                    size: total,
                    framework: model.inspection.framework.map(str::to_owned),
                    signature: signature_document(&model.inspection.signature),
                    tags: Tags::new(),
                    properties: Tags::new(),
                    created: crate::db::now(),
                    source: path,
                };
                db.insert_model(&row).await?;
                progress.add(format!("registered {}", row.full_name()));
                Ok(row)
            })?;
            drop(packing);
            Ok(registered)
        })
        .await?;
        self.labelled(row, &change, replace).await
    }

    /// Adds the given tags and properties to a model that was registered, and returns it.
    pub(crate) async fn labelled(
        &self,
        row: ModelRow,
        change: &ModelChange,
        replace: bool,
    ) -> Result<ModelRow> {
        self.changed.notify_one();
        if !replace && change.properties.is_empty() {
            return Ok(row);
        }
        let _models = self.lock().await;
        self.db.change_model(&row.name, Some(row.version), change, replace).await
    }
}

/// Updates a model that is already registered: restores damaged files, and replaces its sample if another one was
/// given.
async fn refresh(
    models: &Models,
    there: ModelRow,
    model: &drisse_registry::Ingested,
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
