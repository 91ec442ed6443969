//! `/v1/services`.

use super::models::may_name_files;
use super::{Answer, Begun, Json, Local, QueryParams, begin, page_limit};
use crate::control::Control;
use crate::db::rfc3339;
use crate::db::services::{RevisionRow, ServiceFilter, ServiceRow, Share};
use crate::error::{ControlError, Result};
use crate::models::{derived_name, open_source, split_version};
use crate::operations::OperationKind;
use crate::services::{check_options, check_time, parsed};
use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use drisse_core::{LogOptions, MaxWait, Replica, ReplicaState, ServiceName};
use drisse_wire::control::{
    DeployRequest, FailureBody, Instance, KeyRequest, Keys, ModelChoice, Operation, Page, Revision,
    RollbackRequest, Service, ServiceState,
};
use futures_util::StreamExt;
use serde::Deserialize;
use std::time::Duration;

/// The default time limit of an operation on a service.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only services on this target.
    target: Option<String>,
    /// Only services in this state.
    state: Option<ServiceState>,
    /// Only services whose wanted revision serves this model: `NAME` or `NAME:VERSION`.
    model: Option<String>,
    /// Only services with this tag: `KEY` or `KEY=VALUE`.
    tag: Option<String>,
    /// The `next` of the previous page.
    after: Option<String>,
    /// The maximum number of items, at most 1000 (default 50).
    limit: Option<u32>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// The number of the newest lines to return, at most 100000 (default 100).
    lines: Option<usize>,
    /// Whether to continue with new lines until the client disconnects.
    #[serde(default)]
    follow: bool,
}

/// Lists services
#[utoipa::path(get, path = "/v1/services", params(Filter), responses((status = 200, body = Page<Service>), (status = "default", body = FailureBody)))]
pub(super) async fn list(
    State(control): State<Control>,
    QueryParams(asked): QueryParams<Filter>,
) -> Answer<Page<Service>> {
    let Filter { target, state, model, tag, after, limit } = asked;
    let state = state.map(|state| state.to_string());
    let filter = ServiceFilter { target, state, model, tag, after, limit: page_limit(limit) };
    let page = control.db.services(&filter).await?;
    let items = page.items.into_iter().map(|(row, revision)| document(&control, row, &revision)).collect();
    Ok(axum::Json(Page { items, next: page.next }))
}

/// Deploys a model: creates the service, or updates it if it exists
#[utoipa::path(post, path = "/v1/services", request_body = DeployRequest, responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn deploy(
    State(control): State<Control>,
    Extension(local): Extension<Local>,
    Json(mut request): Json<DeployRequest>,
) -> Begun {
    let derived = check_model(&control, local, &request).await?;
    let (derived, stem) =
        derived.ok_or_else(|| ControlError::invalid("deploying a service requires `model`"))?;
    request.stem = stem.filter(|_| request.name.is_none());
    let name = request.name.take().unwrap_or(derived);
    name.parse::<ServiceName>().map_err(|error| {
        ControlError::invalid(format!("cannot deploy service `{name}`"))
            .because(&error)
            .hint("choose another name with --name NAME")
    })?;
    // A file is registered under this name.
    request.name = Some(name.clone());
    change(&control, &name, request, OperationKind::Deploy).await
}

/// Updates a service
#[utoipa::path(patch, path = "/v1/services/{name}", params(("name" = String, Path)), request_body = DeployRequest, responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn update(
    State(control): State<Control>,
    Extension(local): Extension<Local>,
    Path(name): Path<String>,
    Json(mut request): Json<DeployRequest>,
) -> Begun {
    control.db.existing_service(&name).await?;
    check_model(&control, local, &request).await?;
    request.name = Some(name.clone());
    change(&control, &name, request, OperationKind::Update).await
}

/// Checks that the model of a request exists, before an operation is started for it. Returns the name that a service of
/// the model has by default, and for a file what that name is made of; `None` if the request names no model.
async fn check_model(
    control: &Control,
    local: Local,
    request: &DeployRequest,
) -> Result<Option<(String, Option<String>)>> {
    if request.sample.is_some() && !matches!(request.model, Some(ModelChoice::Uploaded(_))) {
        may_name_files(local)?;
    }
    let named = |name: &Option<String>, stem: String| match name {
        Some(name) => Ok(Some((name.clone(), None))),
        None => Ok(Some((derived_name(&stem)?, Some(stem)))),
    };
    match &request.model {
        None => Ok(None),
        Some(ModelChoice::Uploaded(files)) => named(&request.name, files.stem().to_owned()),
        Some(ModelChoice::Path(path)) => {
            may_name_files(local)?;
            let source = open_source(path.as_ref(), request.follow_links).await?;
            named(&request.name, source.name)
        }
        Some(ModelChoice::Registered(text)) => {
            let (name, version) = split_version(text)?;
            Ok(Some((control.db.model(name, version).await?.name, None)))
        }
    }
}

async fn change(
    control: &Control,
    name: &str,
    request: DeployRequest,
    kind: fn(DeployRequest) -> OperationKind,
) -> Begun {
    check_options(&request)?;
    let there = control.db.service(name).await?;
    if there.as_ref().is_some_and(|service| service.deleting) {
        return Err(ControlError::conflict(format!("service `{name}` is being deleted"))
            .hint("try again after its deletion"));
    }
    if let (Some(target), Some(service)) = (&request.target, &there)
        && service.target != *target
    {
        control.services.targets.target(target)?;
        let message = format!("service `{name}` runs on target `{}`, not `{target}`", service.target);
        return Err(ControlError::conflict(message).hint("deploy it under another name, or delete it first"));
    }
    // The operation checks this again. Here, an error is reported before a model is copied.
    control.services.check_fits(name, there.as_ref(), &request).await?;
    let timeout = request.timeout_ms.map_or(TIMEOUT, Duration::from_millis);
    begin(control, kind(request), name, Some(timeout)).await
}

/// Returns a service with its revisions and running replicas
#[utoipa::path(get, path = "/v1/services/{name}", params(("name" = String, Path)), responses((status = 200, body = Service), (status = "default", body = FailureBody)))]
pub(super) async fn show(State(control): State<Control>, Path(name): Path<String>) -> Answer<Service> {
    let row = control.db.existing_service(&name).await?;
    let revisions = control.db.revisions(&name).await?;
    let wanted = revisions.iter().find(|revision| revision.revision == row.revision);
    let wanted = wanted.ok_or_else(|| {
        ControlError::internal(format!("the current revision of service `{name}` is missing"))
    })?;
    let shares = row.wanted.clone();
    let mut service = document(&control, row, wanted);
    service.revisions = revisions.iter().map(|revision| revision_document(revision, &shares)).collect();
    if let Some(task) = control.services.running_task(&name) {
        let observed = task.observed();
        let observed = observed.borrow();
        let instance = |replica: &Replica| instance(replica, observed.in_use.contains(&replica.id));
        service.instances = observed.replicas.iter().map(instance).collect();
    }
    Ok(axum::Json(service))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteQuery {
    /// Whether to delete the service even if its target does not answer.
    #[serde(default)]
    force: bool,
}

/// Deletes a service
#[utoipa::path(delete, path = "/v1/services/{name}", params(("name" = String, Path), DeleteQuery), responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn delete(
    State(control): State<Control>,
    Path(name): Path<String>,
    QueryParams(asked): QueryParams<DeleteQuery>,
) -> Begun {
    control.db.existing_service(&name).await?;
    begin(&control, OperationKind::Delete { force: asked.force }, &name, None).await
}

/// Returns a service to an earlier revision
#[utoipa::path(post, path = "/v1/services/{name}/rollback", params(("name" = String, Path)), request_body = RollbackRequest, responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn rollback(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(request): Json<RollbackRequest>,
) -> Begun {
    control.db.existing_service(&name).await?;
    check_time("timeout", request.timeout_ms)?;
    let timeout = request.timeout_ms.map_or(TIMEOUT, Duration::from_millis);
    begin(&control, OperationKind::Rollback(request), &name, Some(timeout)).await
}

/// Returns whether the wanted revision of a service requires a key.
async fn requires_key(control: &Control, row: &ServiceRow) -> Result<bool> {
    Ok(control.db.revision(&row.name, row.revision).await?.is_none_or(|revision| revision.auth))
}

/// Returns the keys of a service
#[utoipa::path(get, path = "/v1/services/{name}/keys", params(("name" = String, Path)), responses((status = 200, body = Keys), (status = "default", body = FailureBody)))]
pub(super) async fn keys(State(control): State<Control>, Path(name): Path<String>) -> Answer<Keys> {
    let row = control.db.existing_service(&name).await?;
    let auth = requires_key(&control, &row).await?;
    let shown = |key: String| auth.then_some(key);
    Ok(axum::Json(Keys { primary_key: shown(row.primary_key), secondary_key: shown(row.secondary_key) }))
}

/// Replaces a key; the operation ends when every replica and the gateway have confirmed the new key
#[utoipa::path(post, path = "/v1/services/{name}/keys", params(("name" = String, Path)), request_body = KeyRequest, responses((status = 202, body = Operation), (status = "default", body = FailureBody)))]
pub(super) async fn change_key(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(request): Json<KeyRequest>,
) -> Begun {
    let row = control.db.existing_service(&name).await?;
    let auth = requires_key(&control, &row).await?;
    if !auth {
        return Err(ControlError::conflict(format!(
            "service `{name}` accepts requests without a key: it has no keys"
        ))
        .hint(format!("`drisse update {name} --auth` makes it require a key")));
    }
    if let Some(key) = &request.value {
        crate::keys::check(key)?;
    }
    begin(&control, OperationKind::Keys(request), &name, Some(TIMEOUT)).await
}

/// Returns the log lines of a service's replicas
#[utoipa::path(get, path = "/v1/services/{name}/logs", params(("name" = String, Path), LogQuery), responses((status = 200, content_type = "text/plain", body = String), (status = "default", body = FailureBody)))]
pub(super) async fn logs(
    State(control): State<Control>,
    Path(name): Path<String>,
    QueryParams(asked): QueryParams<LogQuery>,
) -> Result<impl IntoResponse> {
    let row = control.db.existing_service(&name).await?;
    let service = parsed(&name)?;
    let options = LogOptions { lines: asked.lines.unwrap_or(100).min(100_000), follow: asked.follow };
    let lines = control.services.targets.target(&row.target)?.logs(&service, options).await?;
    let stopped = control.stop.token().cancelled_owned();
    let lines = lines
        .map(|line| Ok::<_, std::convert::Infallible>(format!("{line}\n")))
        .take_until(Box::pin(stopped));
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(lines)))
}

/// Returns a sample `/score` body for the service's model
#[utoipa::path(get, path = "/v1/services/{name}/sample", params(("name" = String, Path)), responses((status = 200, content_type = "application/json", body = Object), (status = "default", body = FailureBody)))]
pub(super) async fn sample(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse> {
    let row = control.db.existing_service(&name).await?;
    let revision = control.db.revision(&name, row.revision).await?;
    let revision =
        revision.ok_or_else(|| ControlError::not_found(format!("service `{name}` has no revision")))?;
    let package = revision.package.clone();
    let read = move |store: &drisse_registry::Store| -> Result<_> {
        let manifest = store.manifest(&package)?;
        Ok(manifest.sample().map(|digest| store.read(digest)).transpose()?)
    };
    let Some(sample) = control.services.models.with_store(read).await? else {
        let message = format!("model `{}` has no sample", revision.model_name());
        return Err(ControlError::not_found(message)
            .hint("add one with `drisse deploy … --sample FILE`, or score with --file"));
    };
    Ok(([(CONTENT_TYPE, "application/json")], sample))
}

fn document(control: &Control, row: ServiceRow, revision: &RevisionRow) -> Service {
    let replicas = if row.active { row.asked_replicas() } else { 0 };
    let uri = format!("{}/api/v1/service/{}", control.gateway.url(), row.name);
    let (ready, unseen) = control.services.running_task(&row.name).map_or((0, None), |task| {
        let observed = task.observed();
        let observed = observed.borrow();
        (observed.ready, observed.error.as_ref().map(|error| error.failure.clone()))
    });
    // A service that cannot be observed is not ready, whatever its last state was.
    let (state, error) = match (row.state, unseen) {
        _ if control.about.at_rest => (ServiceState::Stopped, row.error),
        (ServiceState::Ready, Some(error)) => (ServiceState::Degraded, Some(error)),
        (state, _) => (state, row.error),
    };
    Service {
        model: revision.model_name(),
        digest: revision.digest.clone(),
        revision: row.revision,
        target: row.target,
        state,
        error,
        scoring_uri: format!("{uri}/score"),
        swagger_uri: format!("{uri}/swagger.json"),
        aliases: revision.aliases.clone(),
        auth: revision.auth,
        replicas,
        ready,
        tags: row.tags,
        cors_origins: row.cors_origins,
        access_log: row.access_log,
        created_at: rfc3339(row.created),
        updated_at: rfc3339(row.updated),
        revisions: vec![],
        instances: vec![],
        name: row.name,
    }
}

fn revision_document(row: &RevisionRow, wanted: &[Share]) -> Revision {
    let share = wanted.iter().find(|share| share.revision == row.revision);
    Revision {
        revision: row.revision,
        model: row.model_name(),
        digest: row.digest.clone(),
        auth: row.auth,
        max_wait_ms: u64::try_from(row.max_wait().of(Duration::ZERO).as_millis()).unwrap_or(u64::MAX),
        max_wait_auto: row.max_wait() == MaxWait::Auto,
        scoring_timeout_ms: row.scoring_timeout_ms,
        serving: row.serving,
        resources: row.resources.clone().without_secrets(),
        created_at: rfc3339(row.created),
        weight: share.map(|share| share.weight),
        replicas: share.map(|share| share.replicas),
        scaled: share.and_then(|share| share.scaled),
    }
}

fn instance(replica: &Replica, in_use: bool) -> Instance {
    let (state, detail) = match &replica.state {
        ReplicaState::Starting { .. } => ("starting", String::new()),
        ReplicaState::Ready { address, .. } => ("ready", address.clone()),
        ReplicaState::Stopping => ("stopping", String::new()),
        ReplicaState::Dead(death) => ("dead", death.reason.clone()),
    };
    Instance {
        id: replica.id.to_string(),
        revision: replica.revision,
        state: state.to_owned(),
        in_use,
        detail,
    }
}
