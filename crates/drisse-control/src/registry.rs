//! Registering models, checking them, and removing what nothing refers to.

use crate::control::Control;
use crate::db::Result;
use crate::db::models::{ModelParts, ModelRow, Tags};
use crate::operations::{Ended, Op};
use crate::packages::Import;
use crate::problem::Problem;
use drisse_core::{Inputs, ModelName, ServiceName, Signature, step};
use drisse_registry::{ModelSource, StoreError, signature_document};
use drisse_wire::control::{ModelChange, RegisterRequest};
use drisse_wire::score;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A sample that is made up is no larger than this in memory.
const MAX_MADE_SAMPLE: usize = 16 << 20;

/// A sample given is no larger than a body.
const MAX_SAMPLE: u64 = 100 << 20;

/// Bytes between two words of progress.
const PROGRESS: u64 = 256 << 20;

/// After a change of the models, `index.json` is written once nothing more has changed for this long.
const INDEX_DELAY: Duration = Duration::from_secs(2);

/// What is to be registered.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) sample: Option<PathBuf>,
    pub(crate) tags: Option<Tags>,
    pub(crate) properties: Tags,
}

/// The name a file's model gets: its stem as a name.
pub(crate) fn derived_name(source: &ModelSource) -> Result<String> {
    let slug = ServiceName::slug(&source.name).map(|name| name.to_string());
    slug.ok_or_else(|| {
        Problem::invalid(format!("no name can be made of `{}`", source.name)).hint("give one: --name NAME")
    })
}

/// Opens a model off the runtime's threads.
pub(crate) async fn open_source(path: &Path) -> Result<ModelSource> {
    if !path.is_absolute() {
        return Err(Problem::invalid(format!("{} is no absolute path", path.display())));
    }
    let path = path.to_owned();
    blocking(move || Ok(ModelSource::open_to_run(&path)?)).await
}

/// Runs what blocks on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Problem::failed("a thread panicked").because(&error)))
}

impl Control {
    pub(crate) async fn do_register(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        let request: RegisterRequest = op.request()?;
        if let Some(package) = request.package {
            let import = Import {
                layout: request.path.into(),
                package,
                signatures: request.signatures,
                name: op.row.document.subject.clone(),
                tags: request.tags,
                properties: request.properties.unwrap_or_default(),
            };
            let model = tokio::select! {
                model = self.import(op, import) => model?,
                ended = op.cut_short() => return Err(ended),
            };
            return Ok(json!(model.document(vec![])));
        }
        let registration = Registration {
            path: request.path.into(),
            name: op.row.document.subject.clone(),
            sample: request.sample.map(PathBuf::from),
            tags: request.tags,
            properties: request.properties.unwrap_or_default(),
        };
        let model = tokio::select! {
            model = self.register(op, registration) => model?,
            ended = op.cut_short() => return Err(ended),
        };
        Ok(json!(model.document(vec![])))
    }

    /// Registers a model: the same files under the same name are the version that is there.
    pub(crate) async fn register(self: &Arc<Self>, op: &Op, what: Registration) -> Result<ModelRow> {
        what.name
            .parse::<ModelName>()
            .map_err(|error| Problem::invalid("cannot register the model").because(&error))?;
        let (control, running) = (Arc::clone(self), Arc::clone(&op.running));
        let change = ModelChange {
            tags: what.tags.clone().unwrap_or_default(),
            properties: what.properties.clone(),
            ..ModelChange::default()
        };
        let replace = what.tags.is_some();
        let row = blocking(move || {
            let shown = what.path.display();
            let source = ModelSource::open_to_run(&what.path)?;
            let (sample, given) = sample(&source, what.sample.as_deref(), &|line| running.tell(line))?;
            let copied = AtomicU64::new(0);
            let total = source.inspection.size
                + source.inspection.external_data.iter().map(|file| file.size).sum::<u64>();
            let progress = |bytes: u64| {
                let before = copied.fetch_add(bytes, Relaxed);
                if before / PROGRESS != (before + bytes) / PROGRESS {
                    running.tell(format!("copied {} of {} MiB", (before + bytes) >> 20, total >> 20));
                }
            };
            let store = &control.store;
            // Until the database refers to the blobs, nobody may collect them.
            let packing = store.packing();
            let model = store
                .ingest(&source, &progress)
                .map_err(|error| Problem::from(error).context(format!("cannot register {shown}")))?;
            step("a model's files are in the store");
            let registered = control.runtime.block_on(async {
                // One at a time decides which version is the next.
                let _models = control.models_lock.lock().await;
                let db = &control.db;
                let path = source.inspection.path.to_str().map(str::to_owned);
                if let Some(there) = db.model_by_digest(&what.name, &model.digest).await? {
                    if there.source != path {
                        db.set_source(&there.name, there.version, path.as_deref()).await?;
                    }
                    return refresh(&control, there, &model, sample.as_deref(), given).await;
                }
                let version = db.next_version(&what.name).await?;
                let package = store.pack(&model, &what.name, version, sample.as_deref())?;
                step("a model is packed");
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
                running.tell(format!("registered {}", row.full_name()));
                Ok(row)
            })?;
            drop(packing);
            Ok(registered)
        })
        .await?;
        self.labelled(row, &change, replace).await
    }

    /// A model that was registered, with the tags and properties that were given with it.
    pub(crate) async fn labelled(
        &self,
        row: ModelRow,
        change: &ModelChange,
        replace: bool,
    ) -> Result<ModelRow> {
        self.models_changed.notify_one();
        if !replace && change.properties.is_empty() {
            return Ok(row);
        }
        let _models = self.models_lock.lock().await;
        self.db.change_model(&row.name, Some(row.version), change, replace).await
    }

    pub(crate) async fn do_delete_model(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        let (name, version): (String, u64) = op.request()?;
        let model = match self.db.model(&name, Some(version)).await {
            Ok(model) => model,
            // Deleted before the control plane was killed; its blobs may still be there.
            Err(problem) if problem.status == 404 && op.resumed => {
                self.collect_deleted(op).await?;
                return Ok(json!({ "deleted": format!("{name}:{version}") }));
            }
            Err(problem) => return Err(problem.into()),
        };
        {
            let _models = self.models_lock.lock().await;
            self.db.delete_model(&name, version).await?;
            self.db.forget_referrers().await?;
        }
        step("a model is forgotten");
        self.models_changed.notify_one();
        self.collect_deleted(op).await?;
        Ok(json!({ "deleted": model.full_name() }))
    }

    /// Removes what a model that was deleted was made of. That another one is damaged is no failure of this.
    async fn collect_deleted(self: &Arc<Self>, op: &Op) -> Result<()> {
        match self.collect_garbage().await {
            Ok(removed) => op.running.tell(format!("removed {} blobs, {} MiB", removed.0, removed.1 >> 20)),
            Err(problem) if problem.status == 409 => op.running.tell(problem.failure.message),
            Err(problem) => return Err(problem),
        }
        Ok(())
    }

    pub(crate) async fn do_collect(self: &Arc<Self>, op: &Op) -> std::result::Result<Value, Ended> {
        let (blobs, bytes) = self.collect_garbage().await?;
        op.running.tell(format!("removed {blobs} blobs, {} MiB", bytes >> 20));
        Ok(json!({ "blobs": blobs, "bytes": bytes }))
    }

    /// Removes blobs and views that no registered model has.
    pub(crate) async fn collect_garbage(self: &Arc<Self>) -> Result<(usize, u64)> {
        let control = Arc::clone(self);
        blocking(move || control.store.collect(|| control.runtime.block_on(control.live()))).await
    }

    /// Every registered model, or the one named.
    pub(crate) async fn every_model(&self, wanted: Option<&str>) -> Result<Vec<ModelParts>> {
        let Some(wanted) = wanted else { return self.db.all_models().await };
        let (name, version) = split_version(wanted)?;
        let ModelRow { name, version, digest, package, source, .. } = self.db.model(name, version).await?;
        Ok(vec![ModelParts { name, version, digest, package, source }])
    }

    /// Digests of everything registered models are made of, and of the models themselves.
    async fn live(&self) -> Result<HashSet<String>> {
        let mut live = HashSet::new();
        for model in self.every_model(None).await? {
            match self.store.manifest(&model.package) {
                Ok(manifest) => live.extend(manifest.blobs().map(str::to_owned)),
                // What it refers to is not known, and a repair needs it.
                Err(error @ (StoreError::Missing { .. } | StoreError::Corrupt { .. })) => {
                    let message = format!(
                        "no blobs are removed while model `{}:{}` is damaged",
                        model.name, model.version
                    );
                    return Err(Problem::conflict(message)
                        .because(&error)
                        .hint("`drisse models verify --repair` mends it; or delete it"));
                }
                // It may be readable the next time: nothing is collected now.
                Err(error) => return Err(error.into()),
            }
            live.extend([model.package, model.digest]);
        }
        live.extend(self.signature_blobs().await?);
        Ok(live)
    }

    /// Keeps `index.json` up to date, some time after each change.
    pub(crate) async fn keep_index(self: Arc<Self>) {
        loop {
            self.models_changed.notified().await;
            while tokio::time::timeout(INDEX_DELAY, self.models_changed.notified()).await.is_ok() {}
            if let Err(problem) = self.write_index().await {
                tracing::warn!("cannot write index.json: {:?}", problem.failure);
            }
        }
    }

    pub(crate) async fn write_index(&self) -> Result<()> {
        let models = self.every_model(None).await?;
        let store = self.store.clone();
        blocking(move || {
            let entry = |model: ModelParts| (model.name, model.version, model.package);
            Ok(store.write_index(&models.into_iter().map(entry).collect::<Vec<_>>())?)
        })
        .await
    }
}

/// A model that is there already: its files are written anew where they were damaged; another sample
/// that was given takes the place of the one it has.
async fn refresh(
    control: &Control,
    there: ModelRow,
    model: &drisse_registry::Ingested,
    sample: Option<&[u8]>,
    given: bool,
) -> Result<ModelRow> {
    let store = &control.store;
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
    control.db.set_package(&there.name, there.version, &package).await?;
    store.forget_view(&there.digest);
    Ok(ModelRow { package, ..there })
}

/// `NAME` or `NAME:VERSION`.
pub(crate) fn split_version(text: &str) -> Result<(&str, Option<u64>)> {
    let Some((name, version)) = text.split_once(':') else { return Ok((text, None)) };
    let number = version.parse().ok().filter(|&number| number > 0);
    let number = number.ok_or_else(|| {
        Problem::invalid(format!("`{version}` is no version")).hint("versions are numbers from 1: `name:3`")
    })?;
    Ok((name, Some(number)))
}

/// The sample to pack, and whether it was given for this model: one named must fit; a `sample.json` that
/// happens to lie there need not; without either the smallest inputs, of zeros.
fn sample(
    source: &ModelSource,
    named: Option<&Path>,
    tell: &dyn Fn(String),
) -> Result<(Option<Vec<u8>>, bool)> {
    let signature = &source.inspection.signature;
    let beside = source.sample.as_deref();
    if let Some(path) = named.or(beside) {
        match read_sample(path, signature) {
            Ok(bytes) => return Ok((Some(bytes), true)),
            Err(problem) if named.is_some() => return Err(problem),
            Err(problem) => tell(format!("{}; it is left out", problem.failure.message)),
        }
    }
    Ok((made_sample(signature), false))
}

/// The smallest inputs, of zeros.
pub(crate) fn made_sample(signature: &Signature) -> Option<Vec<u8>> {
    let made = Inputs::smallest(signature, MAX_MADE_SAMPLE);
    made.and_then(|inputs| score::encode(signature, &inputs)).map(String::into_bytes)
}

fn read_sample(path: &Path, signature: &Signature) -> Result<Vec<u8>> {
    let unfit = || Problem::invalid(format!("{} is no sample for this model", path.display()));
    let file = std::fs::metadata(path).map_err(|error| unfit().because(&error))?;
    // A pipe would keep us waiting, a device never ends.
    if !file.is_file() {
        return Err(unfit().hint("a sample is a file"));
    }
    if file.len() > MAX_SAMPLE {
        return Err(unfit().hint("a sample is one request's body, at most 100 MiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| unfit().because(&error))?;
    let fits = score::decode(&bytes, signature).and_then(|inputs| inputs.check(signature));
    fits.map_err(|error| unfit().because(&error).hint("a sample is a body that /score takes"))?;
    Ok(bytes)
}
