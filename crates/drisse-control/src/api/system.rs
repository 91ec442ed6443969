//! The control plane itself: status, shutdown, targets, and the maintenance of the store.

use super::{Answer, Begun, Json, Local, QueryParams, begin};
use crate::control::Control;
use crate::db::services::Counted;
use crate::error::Result;
use crate::operations::OperationKind;
use axum::extract::{Extension, Path, State};
use axum::response::IntoResponse;
use drisse_wire::control::{
    FailureBody, Operation, ProcessInfo, RepairRequest, Shutdown, Status, TargetInfo, TargetSpec,
};
use serde::Deserialize;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OneModel {
    /// The model to check: `NAME` or `NAME:VERSION` (default: all models).
    model: Option<String>,
}

/// Returns the status of the control plane and the gateway
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), (status = "default", body = FailureBody)))]
pub(super) async fn status(State(control): State<Control>) -> Answer<Status> {
    Ok(axum::Json(Status {
        version: control.about.version.to_owned(),
        build: control.about.build.to_string(),
        workspace: control.about.workspace.root.display().to_string(),
        control: ProcessInfo { pid: Some(std::process::id()) },
        gateway: control.gateway.info().await,
        metrics: control.about.metrics.map(|address| address.to_string()),
        registry: control.about.registry.map(|address| address.to_string()),
        services: control.db.service_counts(Counted::State).await?,
    }))
}

/// Stops the control plane, or everything; services that were stopped start again with the next control plane
#[utoipa::path(post, path = "/v1/shutdown", request_body = Shutdown, responses((status = 202, body = Object), (status = "default", body = FailureBody)))]
pub(super) async fn shutdown(
    State(control): State<Control>,
    Json(how): Json<Shutdown>,
) -> Result<impl IntoResponse> {
    control.stop.end(how);
    Ok((axum::http::StatusCode::ACCEPTED, axum::Json(serde_json::json!({}))))
}

/// Lists the targets and whether they can be used
#[utoipa::path(get, path = "/v1/targets", responses((status = 200, body = Vec<TargetInfo>), (status = "default", body = FailureBody)))]
pub(super) async fn targets(State(control): State<Control>) -> Answer<Vec<TargetInfo>> {
    Ok(axum::Json(control.services.targets.infos(control.about.at_rest).await?))
}

/// Attaches a target, or changes how it is attached
#[utoipa::path(put, path = "/v1/targets/{name}", params(("name" = String, Path)), request_body = TargetSpec, responses((status = 200, body = Object), (status = "default", body = FailureBody)))]
pub(super) async fn attach(
    State(control): State<Control>,
    Extension(local): Extension<Local>,
    Path(name): Path<String>,
    Json(spec): Json<TargetSpec>,
) -> Answer<serde_json::Value> {
    if spec.socket.is_some() {
        super::models::may_name_files(local)?;
    }
    if let Some(new) = control.services.targets.attach(&name, spec).await? {
        control.services.reconcilers.listen_to(&*new);
    }
    Ok(axum::Json(serde_json::json!({})))
}

/// Detaches a target that no service runs on
#[utoipa::path(delete, path = "/v1/targets/{name}", params(("name" = String, Path)), responses((status = 200, body = Object), (status = "default", body = FailureBody)))]
pub(super) async fn detach(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Answer<serde_json::Value> {
    control.services.targets.detach(&name).await?;
    Ok(axum::Json(serde_json::json!({})))
}

/// Compares every blob of a model, or of all models, with its digest
#[utoipa::path(post, path = "/v1/verify", params(OneModel), responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn verify(
    State(control): State<Control>,
    QueryParams(asked): QueryParams<OneModel>,
) -> Begun {
    let subject = verified(&control, &asked).await?;
    begin(&control, OperationKind::Verify { model: asked.model }, &subject, None).await
}

/// Returns the subject of the operation: a registered model, or all.
async fn verified(control: &Control, asked: &OneModel) -> Result<String> {
    let Some(model) = &asked.model else { return Ok("all models".to_owned()) };
    let (name, version) = crate::models::split_version(model)?;
    control.db.model(name, version).await?;
    Ok(model.clone())
}

/// Verifies models and restores damaged blobs from copies in the workspace, in the models' source files or in `from`
#[utoipa::path(post, path = "/v1/repair", params(OneModel), request_body = RepairRequest, responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn repair(
    State(control): State<Control>,
    Extension(local): Extension<Local>,
    QueryParams(asked): QueryParams<OneModel>,
    Json(request): Json<RepairRequest>,
) -> Begun {
    if !request.from.is_empty() {
        super::models::may_name_files(local)?;
    }
    let subject = verified(&control, &asked).await?;
    begin(&control, OperationKind::Repair { model: asked.model, request }, &subject, None).await
}

/// Removes blobs that no model refers to
#[utoipa::path(post, path = "/v1/collect", responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn collect(State(control): State<Control>) -> Begun {
    begin(&control, OperationKind::Collect, "store", None).await
}
