//! `/v1/models/…/signatures` and `/v1/trust`.

use super::models::number;
use super::{Answer, Json};
use crate::control::Control;
use axum::extract::{Path, State};
use drisse_wire::control::{FailureBody, Signature, TrustDocument};

/// Lists the signatures of a version of a model
#[utoipa::path(get, path = "/v1/models/{name}/versions/{version}/signatures", params(("name" = String, Path), ("version" = String, Path)), responses((status = 200, body = Vec<Signature>), (status = "default", body = FailureBody)))]
pub(super) async fn list(
    State(control): State<Control>,
    Path((name, version)): Path<(String, String)>,
) -> Answer<Vec<Signature>> {
    let model = control.db.model(&name, number(&version)?).await?;
    Ok(axum::Json(control.services.models.signatures(&model.package).await?))
}

/// Adds a signature to a version of a model
#[utoipa::path(post, path = "/v1/models/{name}/versions/{version}/signatures", params(("name" = String, Path), ("version" = String, Path)), request_body = Signature, responses((status = 200, body = Vec<Signature>), (status = "default", body = FailureBody)))]
pub(super) async fn add(
    State(control): State<Control>,
    Path((name, version)): Path<(String, String)>,
    Json(signature): Json<Signature>,
) -> Answer<Vec<Signature>> {
    let model = control.db.model(&name, number(&version)?).await?;
    control.services.models.sign(&model, &signature.bundle).await?;
    Ok(axum::Json(control.services.models.signatures(&model.package).await?))
}

/// Returns the public keys that models must be signed with
#[utoipa::path(get, path = "/v1/trust", responses((status = 200, body = TrustDocument), (status = "default", body = FailureBody)))]
pub(super) async fn trusted(State(control): State<Control>) -> Answer<TrustDocument> {
    Ok(axum::Json(control.services.models.trusted().await?))
}

/// Replaces the public keys that models must be signed with; running services keep running
#[utoipa::path(put, path = "/v1/trust", request_body = TrustDocument, responses((status = 200, body = TrustDocument), (status = "default", body = FailureBody)))]
pub(super) async fn trust(
    State(control): State<Control>,
    Json(document): Json<TrustDocument>,
) -> Answer<TrustDocument> {
    control.services.models.set_trusted(&document).await?;
    Ok(axum::Json(control.services.models.trusted().await?))
}
