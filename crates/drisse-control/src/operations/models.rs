//! The operations on models.

use crate::db::models::ModelRow;
use crate::error::Result;
use crate::models::{Import, Models, Registration};
use crate::running::{OperationError, Running};
use drisse_core::{ErrorKind, crash_point};
use drisse_wire::control::{RegisterRequest, RepairRequest};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

pub(super) async fn register(
    models: &Arc<Models>,
    op: &Running,
    request: RegisterRequest,
) -> Result<Value, OperationError> {
    let name = op.subject().to_owned();
    let properties = request.properties.unwrap_or_default();
    let model: ModelRow = match request.package {
        Some(package) => {
            let import = Import {
                layout: request.path.into(),
                package,
                signatures: request.signatures,
                name,
                tags: request.tags,
                properties,
            };
            op.unless_cut_short(models.import(&op.progress, import)).await?
        }
        None => {
            let registration = Registration {
                path: request.path.into(),
                name,
                sample: request.sample.map(PathBuf::from),
                tags: request.tags,
                properties,
            };
            op.unless_cut_short(models.register(&op.progress, registration)).await?
        }
    };
    Ok(json!(model.document(vec![])))
}

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

pub(super) async fn verify(
    models: &Arc<Models>,
    op: &Running,
    model: Option<&str>,
    repair: Option<RepairRequest>,
) -> Result<Value, OperationError> {
    let from = repair.map(|request| request.from.iter().map(PathBuf::from).collect());
    op.unless_cut_short(models.verify(&op.progress, model, from)).await
}

pub(super) async fn collect(models: &Arc<Models>, op: &Running) -> Result<Value, OperationError> {
    let (blobs, bytes) = models.collect_garbage().await?;
    op.progress.add(format!("removed {blobs} blobs, {} MiB", bytes >> 20));
    Ok(json!({ "blobs": blobs, "bytes": bytes }))
}
