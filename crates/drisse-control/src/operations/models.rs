//! The operations on models.

use crate::error::Result;
use crate::models::Models;
use crate::running::{OperationError, Running};
use drisse_core::{ErrorKind, crash_point};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn delete(
    models: &Arc<Models>,
    op: &Running,
    name: &str,
    version: u64,
) -> Result<Value, OperationError> {
    match models.delete(name, version).await {
        Ok(()) => crash_point("a model is forgotten"),
        // The model was deleted before the control plane was killed. Its blobs may still exist.
        Err(error) if error.kind == ErrorKind::NotFound && op.resumed => {}
        Err(error) => return Err(error.into()),
    }
    match models.collect_garbage().await {
        Ok((blobs, bytes)) => op.progress.add(format!("removed {blobs} blobs, {} MiB", bytes >> 20)),
        // Another model is damaged, which is not a failure of this operation.
        Err(error) if error.kind == ErrorKind::Conflict => op.progress.add(error.failure.message),
        Err(error) => return Err(error.into()),
    }
    Ok(json!({ "deleted": format!("{name}:{version}") }))
}

pub(super) async fn collect(models: &Arc<Models>, op: &Running) -> Result<Value, OperationError> {
    let (blobs, bytes) = models.collect_garbage().await?;
    op.progress.add(format!("removed {blobs} blobs, {} MiB", bytes >> 20));
    Ok(json!({ "blobs": blobs, "bytes": bytes }))
}
