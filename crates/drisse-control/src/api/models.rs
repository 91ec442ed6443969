//! `/v1/models`.

use super::{Answer, Begun, Json, Local, QueryParams, begin, page_limit};
use crate::control::Control;
use crate::db::models::ModelFilter;
use crate::error::{ControlError, Result};
use crate::models::{derived_name, open_source, split_version};
use crate::operations::OperationKind;
use axum::extract::{Extension, Path, State};
use drisse_core::{ErrorKind, ModelName};
use drisse_wire::control::{FailureBody, Model, ModelChange, Operation, Page, RegisterRequest};
use serde::Deserialize;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only versions of the model with this name.
    name: Option<String>,
    /// Only versions with this tag: `KEY` or `KEY=VALUE`.
    tag: Option<String>,
    /// Only versions with this property: `KEY` or `KEY=VALUE`.
    property: Option<String>,
    /// Only versions that were made with this framework.
    framework: Option<String>,
    /// The `next` of the previous page.
    after: Option<String>,
    /// The maximum number of items, at most 1000 (default 50).
    limit: Option<u32>,
}

/// Lists registered models
#[utoipa::path(get, path = "/v1/models", params(Filter), responses((status = 200, body = Page<Model>), (status = "default", body = FailureBody)))]
pub(super) async fn list(
    State(control): State<Control>,
    QueryParams(asked): QueryParams<Filter>,
) -> Answer<Page<Model>> {
    let Filter { name, tag, property, framework, after, limit } = asked;
    let after = after.as_deref().map(split_version).transpose()?;
    let after = after.map(|(name, version)| (name.to_owned(), version.unwrap_or(0)));
    let filter = ModelFilter { name, tag, property, framework, after, limit: page_limit(limit) };
    let page = control.db.models(&filter).await?;
    let items = page.items.into_iter().map(|(row, users)| row.document(users)).collect();
    Ok(axum::Json(Page { items, next: page.next }))
}

/// Registers a model; the operation's result is the model
#[utoipa::path(post, path = "/v1/models", request_body = RegisterRequest, responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn register(
    State(control): State<Control>,
    Extension(local): Extension<Local>,
    Json(request): Json<RegisterRequest>,
) -> Begun {
    if !request.path.is_empty() || (request.sample.is_some() && request.uploaded.is_none()) {
        may_name_files(local)?;
    }
    if request.uploaded.is_some() && (!request.path.is_empty() || request.package.is_some()) {
        return Err(ControlError::invalid("give one of `path`, `package` and `uploaded`"));
    }
    let name = match (&request.name, &request.package, &request.uploaded) {
        (Some(name), Some(_), _) => name.clone(),
        (None, Some(_), _) => return Err(ControlError::invalid("registering a package requires `name`")),
        (name, None, Some(files)) => name.clone().map_or_else(|| derived_name(files.stem()), Ok)?,
        (_, None, None) if request.path.is_empty() => {
            return Err(ControlError::invalid("give one of `path`, `package` and `uploaded`"));
        }
        (name, None, None) => {
            let source = open_source(request.path.as_ref(), request.follow_links).await?;
            name.clone().map_or_else(|| derived_name(&source.name), Ok)?
        }
    };
    name.parse::<ModelName>()
        .map_err(|error| ControlError::invalid("cannot register the model").because(&error))?;
    begin(&control, OperationKind::Register(request), &name, None).await
}

/// Returns a version of a model; `latest` is the newest
#[utoipa::path(get, path = "/v1/models/{name}/versions/{version}", params(("name" = String, Path), ("version" = String, Path)), responses((status = 200, body = Model), (status = "default", body = FailureBody)))]
pub(super) async fn show(
    State(control): State<Control>,
    Path((name, version)): Path<(String, String)>,
) -> Answer<Model> {
    let row = control.db.model(&name, number(&version)?).await?;
    let users = control.db.users(&row.name, row.version).await?;
    Ok(axum::Json(row.document(users)))
}

/// Changes a model's tags and adds properties
#[utoipa::path(patch, path = "/v1/models/{name}/versions/{version}", params(("name" = String, Path), ("version" = String, Path)), request_body = ModelChange, responses((status = 200, body = Model), (status = "default", body = FailureBody)))]
pub(super) async fn change(
    State(control): State<Control>,
    Path((name, version)): Path<(String, String)>,
    Json(change): Json<ModelChange>,
) -> Answer<Model> {
    let _models = control.services.models.lock().await;
    let row = control.db.change_model(&name, number(&version)?, &change, false).await?;
    let users = control.db.users(&row.name, row.version).await?;
    Ok(axum::Json(row.document(users)))
}

/// Deletes a version that no service uses
#[utoipa::path(delete, path = "/v1/models/{name}/versions/{version}", params(("name" = String, Path), ("version" = String, Path)), responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn delete(
    State(control): State<Control>,
    Path((name, version)): Path<(String, String)>,
) -> Begun {
    let row = control.db.model(&name, number(&version)?).await?;
    let users = control.db.users(&row.name, row.version).await?;
    if let Some(first) = users.first() {
        let message = format!("model `{}` is in use by service `{first}`", row.full_name());
        return Err(ControlError::conflict(message)
            .hint(format!("`drisse delete {first}` first, or deploy another model there")));
    }
    let subject = row.full_name();
    let kind = OperationKind::DeleteModel { name: row.name, version: row.version };
    begin(&control, kind, &subject, None).await
}

/// Returns an error unless the request came over the Unix socket. Only the workspace's user may name files to read.
pub(super) fn may_name_files(Local(local): Local) -> Result<()> {
    if local {
        return Ok(());
    }
    Err(ControlError::new(ErrorKind::Forbidden, "only requests over the Unix socket may name files")
        .hint("upload them: `PATCH /v1/uploads/DIGEST`, then name them as `uploaded`"))
}

pub(super) fn number(version: &str) -> Result<Option<u64>> {
    if version == "latest" { Ok(None) } else { Ok(split_version(&format!("x:{version}"))?.1) }
}
