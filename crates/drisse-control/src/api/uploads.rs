//! `/v1/uploads`: the files of models, sent from other machines. A file is named by its digest. An upload that was
//! interrupted is continued from the byte at which it ended.

use super::{Answer, QueryParams};
use crate::control::Control;
use axum::body::Body;
use axum::extract::{Path, State};
use drisse_registry::Blob;
use drisse_wire::control::{FailureBody, Upload};
use serde::Deserialize;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Position {
    /// The size of the whole file in bytes.
    size: u64,
    /// The number of bytes that have been received before, from the file's start (default 0).
    #[serde(default)]
    offset: u64,
}

/// Returns how much of a file has been received
#[utoipa::path(get, path = "/v1/uploads/{digest}", params(("digest" = String, Path)), responses((status = 200, body = Upload), (status = "default", body = FailureBody)))]
pub(super) async fn show(State(control): State<Control>, Path(digest): Path<String>) -> Answer<Upload> {
    Ok(axum::Json(control.services.models.uploaded(&digest).await?))
}

/// Sends a file, or the rest of one from `offset`; once `size` bytes are there, they are compared with the digest
#[utoipa::path(patch, path = "/v1/uploads/{digest}", params(("digest" = String, Path), Position), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Upload), (status = "default", body = FailureBody)))]
pub(super) async fn send(
    State(control): State<Control>,
    Path(digest): Path<String>,
    QueryParams(Position { size, offset }): QueryParams<Position>,
    body: Body,
) -> Answer<Upload> {
    let received = control.services.models.receive(Blob { digest, size }, offset, body.into_data_stream());
    Ok(axum::Json(received.await?))
}
