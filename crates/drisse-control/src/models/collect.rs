//! Removes blobs and views that no registered model needs.

use super::Models;
use crate::blocking::blocking;
use crate::error::{ControlError, Result};
use drisse_registry::StoreError;
use std::collections::HashSet;
use std::sync::Arc;

impl Models {
    /// Removes blobs and views that no registered model needs. Returns the number of blobs, and their size in bytes.
    pub(crate) async fn collect_garbage(self: &Arc<Self>) -> Result<(usize, u64)> {
        let models = Arc::clone(self);
        blocking(move || models.store.collect(|| models.runtime.block_on(models.live()))).await
    }

    /// Returns the digests of all registered models, their packages and their blobs.
    async fn live(&self) -> Result<HashSet<String>> {
        let mut live = HashSet::new();
        for model in self.every(None).await? {
            match self.store.manifest(&model.package) {
                Ok(manifest) => live.extend(manifest.blobs().map(str::to_owned)),
                // The blobs of a damaged manifest are unknown, and a repair needs them.
                Err(error @ (StoreError::Missing { .. } | StoreError::Corrupt { .. })) => {
                    let message = format!(
                        "no blobs are removed while model `{}:{}` is damaged",
                        model.name, model.version
                    );
                    return Err(ControlError::conflict(message)
                        .because(&error)
                        .hint("run `drisse models verify --repair`, or delete the model"));
                }
                // The manifest may be readable the next time. Nothing is removed now.
                Err(error) => return Err(error.into()),
            }
            live.extend([model.package, model.digest]);
        }
        live.extend(self.signature_blobs().await?);
        Ok(live)
    }
}
