//! Removing what no registered model has any more.

use super::Models;
use crate::blocking::blocking;
use crate::error::{ControlError, Result};
use drisse_registry::StoreError;
use std::collections::HashSet;
use std::sync::Arc;

impl Models {
    /// Removes blobs and views that no registered model has.
    pub(crate) async fn collect_garbage(self: &Arc<Self>) -> Result<(usize, u64)> {
        let models = Arc::clone(self);
        blocking(move || models.store.collect(|| models.runtime.block_on(models.live()))).await
    }

    /// Digests of everything registered models are made of, and of the models themselves.
    async fn live(&self) -> Result<HashSet<String>> {
        let mut live = HashSet::new();
        for model in self.every(None).await? {
            match self.store.manifest(&model.package) {
                Ok(manifest) => live.extend(manifest.blobs().map(str::to_owned)),
                // What it refers to is not known, and a repair needs it.
                Err(error @ (StoreError::Missing { .. } | StoreError::Corrupt { .. })) => {
                    let message = format!(
                        "no blobs are removed while model `{}:{}` is damaged",
                        model.name, model.version
                    );
                    return Err(ControlError::conflict(message)
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
}
