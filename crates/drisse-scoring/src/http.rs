//! HTTP: connections, paths, bodies, answers. One file per protocol below; each parses, calls
//! [`crate::score::score`] and prints.

pub(crate) mod admin;
mod azure;
mod body;
mod describe;
mod reply;
mod route;
mod v2;

use crate::app::App;
use crate::model::Model;
use crate::score::admit;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use drisse_net::Handler;
use drisse_wire::ErrorShape;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use hyper::http::request::Parts;
use reply::{Ids, Reply};
use route::{Route, Target};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What each connection's requests are answered with.
#[derive(Clone)]
pub(crate) struct Scoring(pub(crate) Arc<App>);

impl Handler for Scoring {
    type Body = Full<Bytes>;

    async fn handle(self, request: Request<Incoming>) -> reply::Response {
        handle(&self.0, request).await
    }
}

async fn handle(app: &App, request: Request<Incoming>) -> reply::Response {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let ids = Ids::of(&head, app);
    let path = head.uri.path();
    let shape = if path.starts_with("/v2") { ErrorShape::Error } else { ErrorShape::Message };
    let mut model = None;
    let result = match Route::of(&head.method, path) {
        Ok(route) => answer(app, route, &head, body, started, &mut model).await.and_then(|r| r.held(app)),
        Err(error) => Err(error),
    };
    let status = match &result {
        Ok(reply) => reply.status,
        Err(error) => drisse_wire::http_status(error.kind()),
    };
    let took = started.elapsed();
    if let Some(model) = &model {
        model.metrics.finished(status, took.as_secs_f64());
    }
    log(&head.method, status, &ids, took, model.as_deref(), result.as_ref().err());
    let response = match result {
        Ok(reply) => reply.into_response(),
        Err(error) => reply::allow(reply::error(shape, &error), Route::methods(path)),
    };
    ids.put_on(response, app.is_draining())
}

/// What goes wrong on our side is for the log; what a client did wrong is told to the client, and
/// only to a log that asks: a client must not be able to fill it.
fn log(
    method: &hyper::Method,
    status: u16,
    ids: &Ids,
    took: Duration,
    model: Option<&Model>,
    error: Option<&Error>,
) {
    let model = model.map_or("", |model| model.name.as_str());
    let (ms, request_id) = (took.as_secs_f64() * 1e3, ids.request());
    match error {
        Some(error) if error.kind() == ErrorKind::Internal => {
            tracing::error!(%method, status, request_id, model, ms, "{error}");
        }
        Some(error) => tracing::debug!(%method, status, request_id, model, ms, "{error}"),
        None => tracing::debug!(%method, status, request_id, model, ms, "answered"),
    }
}

async fn answer(
    app: &App,
    route: Route<'_>,
    head: &Parts,
    body: Incoming,
    started: Instant,
    used: &mut Option<Arc<Model>>,
) -> Result<Reply> {
    if !route.is_open() && !authorized(app, head) {
        app.metrics.refused_keys.inc();
        let message = "the key is missing or wrong: send `Authorization: Bearer KEY`";
        return Err(Error::new(ErrorKind::Unauthenticated, message));
    }
    match route {
        Route::Healthy => Ok(Reply::text("Healthy")),
        Route::Live => Ok(Reply::empty(200)),
        Route::Ready if app.is_ready() => Ok(Reply::empty(200)),
        Route::Ready => Err(Error::new(ErrorKind::Unavailable, "the server is not ready")),
        Route::ServerMetadata => Ok(describe::server()),
        Route::Swagger => Ok(describe::swagger(app)),
        Route::Sample(target) => describe::sample(&*find(app, target)?),
        Route::ModelReady(target) => find(app, target).map(|_| Reply::empty(200)),
        Route::ModelMetadata(target) => Ok(describe::model(&*find(app, target)?)),
        Route::Score(target) | Route::Infer(target) => {
            let model = find(app, target)?;
            *used = Some(Arc::clone(&model));
            let deadline = deadline(app, head, started)?;
            acceptable(head)?;
            let read = body::read(app, body, deadline).await?;
            // Before it is decoded: a refusal costs as little as it can.
            admit(app, &model, deadline)?;
            match route {
                Route::Score(_) => azure::score(app, &model, read, deadline).await,
                _ => v2::infer(app, &model, read, deadline).await,
            }
        }
    }
}

fn authorized(app: &App, head: &Parts) -> bool {
    let Some(keys) = &app.keys else { return true };
    keys.accept(head.headers.get(AUTHORIZATION).map(hyper::header::HeaderValue::as_bytes))
}

fn find(app: &App, target: Target<'_>) -> Result<Arc<Model>> {
    let model = match target.name {
        Some(name) => app.model(name)?,
        None => app.only_model()?,
    };
    if let Some(version) = target.version {
        model.check_version(version)?;
    }
    Ok(model)
}

/// The client's `x-request-timeout-ms`, at most the server's own.
fn deadline(app: &App, head: &Parts, started: Instant) -> Result<Instant> {
    const HEADER: &str = "x-request-timeout-ms";
    let longest = app.config.scoring_timeout;
    let Some(header) = head.headers.get(HEADER) else { return Ok(started + longest) };
    let wanted = header.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok()).filter(|&ms| ms > 0);
    let wanted =
        wanted.ok_or_else(|| Error::invalid(format!("{HEADER} is a whole number of milliseconds")))?;
    Ok(started + longest.min(Duration::from_millis(wanted)))
}

/// A refusal of a body in a format these endpoints do not speak. What names none passes: `curl -d`
/// calls everything a form.
fn acceptable(head: &Parts) -> Result<()> {
    let refused = |what: String| Err(Error::new(ErrorKind::UnsupportedMediaType, what));
    let headers = &head.headers;
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
        return refused(format!("content encoding `{encoding}` is not read here: send the body as it is"));
    }
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = String::from_utf8_lossy(given.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let passes = matches!(
        &*essence,
        "" | "application/json"
            | "text/json"
            | "text/plain"
            | "application/octet-stream"
            | "*/*"
            | "application/x-www-form-urlencoded"
    );
    if passes || essence.ends_with("+json") {
        return Ok(());
    }
    refused(format!("content type `{essence}` is not read here: send application/json"))
}
