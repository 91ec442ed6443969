//! The registered models: their rows in the database and their blobs in the store.

mod collect;
mod import;
mod names;
mod register;
mod samples;
mod signatures;
mod uploads;
mod verify;

use crate::blocking::blocking;
use crate::db::Db;
use crate::db::models::{ModelParts, ModelRow};
use crate::error::Result;
use drisse_registry::{Store, Uploads};
pub(crate) use names::{derived_name, open_source, split_version};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, MutexGuard, Notify};
use uploads::Sending;

/// `index.json` is written once no model has changed for this long.
const INDEX_DELAY: Duration = Duration::from_secs(2);

/// The registered models of a workspace.
#[derive(Debug)]
pub(crate) struct Models {
    db: Db,
    store: Store,
    uploads: Uploads,
    /// The digests of the files that clients are sending.
    sending: Sending,
    /// Runs database queries of code on blocking threads.
    runtime: Handle,
    changed: Notify,
    /// Held by code that adds or removes models, or that relies on a model to exist.
    lock: Mutex<()>,
}

impl Models {
    /// Returns the models of a database and a store. Requires a tokio runtime.
    pub(crate) fn new(db: Db, store: Store) -> Arc<Self> {
        let uploads = Uploads::new(&store);
        let (runtime, changed, lock) = (Handle::current(), Notify::new(), Mutex::default());
        Arc::new(Self { db, store, uploads, sending: Sending::default(), runtime, changed, lock })
    }

    /// Waits for the lock that prevents registering and deleting models.
    pub(crate) async fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().await
    }

    /// Runs `work`, which blocks on the disk, with the store.
    pub(crate) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> T {
        let store = self.store.clone();
        drisse_net::blocking(move || work(&store)).await
    }

    /// Deletes a version of a model from the database. Its blobs are collected afterwards.
    pub(crate) async fn delete(&self, name: &str, version: u64) -> Result<()> {
        self.db.model(name, Some(version)).await?;
        let _models = self.lock().await;
        self.db.delete_model(name, version).await?;
        self.db.forget_referrers().await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Returns every registered model, or the one that `wanted` names.
    pub(crate) async fn every(&self, wanted: Option<&str>) -> Result<Vec<ModelParts>> {
        let Some(wanted) = wanted else { return self.db.all_models().await };
        let (name, version) = split_version(wanted)?;
        let ModelRow { name, version, digest, package, source, .. } = self.db.model(name, version).await?;
        Ok(vec![ModelParts { name, version, digest, package, source }])
    }

    /// Writes `index.json` some time after each change, without end.
    pub(crate) async fn keep_index(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            while tokio::time::timeout(INDEX_DELAY, self.changed.notified()).await.is_ok() {}
            if let Err(error) = self.write_index().await {
                tracing::warn!("cannot write index.json: {:?}", error.failure);
            }
        }
    }

    pub(crate) async fn write_index(&self) -> Result<()> {
        let models = self.every(None).await?;
        let store = self.store.clone();
        blocking(move || {
            let entry = |model: ModelParts| (model.name, model.version, model.package);
            Ok(store.write_index(&models.into_iter().map(entry).collect::<Vec<_>>())?)
        })
        .await
    }
}
