//! HTTP: connections, paths, bodies, answers. One file per protocol below; each parses, calls
//! [`crate::score::score`] and prints.

pub(crate) mod admin;
pub(crate) mod answer_body;
mod azure;
pub(crate) mod body;
pub(crate) mod coding;
mod describe;
mod invocations;
pub(crate) mod reply;
mod repository;
mod route;
mod shared_memory;
mod v1;
mod v2;

use crate::app::App;
use crate::grpc;
use crate::model::Model;
use crate::repository::check_control;
use crate::score::admit;
use crate::traced::Traced;
use answer_body::AnswerBody;
use coding::Coding;
use drisse_core::{Error, ErrorKind, Result};
use drisse_net::trace::Stages;
use drisse_net::{Access, Handler, cors};
use drisse_wire::{ErrorShape, documents};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use reply::{Ids, Reply};
use route::{Protocol, Route, Target};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request that a protocol decodes, scores and answers.
struct Call<'a> {
    app: &'a App,
    model: &'a Arc<Model>,
    head: &'a Parts,
    body: body::Read,
    deadline: Instant,
    stages: Option<Arc<Stages>>,
}

/// What each connection's requests are answered with.
#[derive(Clone)]
pub(crate) struct Scoring(pub(crate) Arc<App>);

impl Handler for Scoring {
    type Body = AnswerBody;

    async fn handle(self, request: Request<Incoming>) -> reply::Response {
        handle(&self.0, request).await
    }
}

async fn handle(app: &Arc<App>, request: Request<Incoming>) -> reply::Response {
    let started = Instant::now();
    let is_call = drisse_wire::grpc::is_call(&request);
    let (mut head, body) = request.into_parts();
    let ids = Ids::of(&head, app);
    let traced = Traced::begin(app, &mut head, started);
    let origin = cors::origin(&app.config.cors_origins, &head.headers);
    if let (Some(origin), Some(headers)) = (&origin, cors::preflight(&head.method, &head.headers)) {
        let mut response = Reply::empty(204).into_response();
        response.headers_mut().extend(headers);
        cors::allow(response.headers_mut(), origin.clone());
        return ids.put_on(response, app.is_draining());
    }
    if is_call {
        return grpc::handle(app, &head, body, ids, started, traced).await;
    }
    let path = head.uri.path();
    let mut model = None;
    let route = Route::of(&head.method, path);
    let protocol = if let Ok(Route::Run(protocol, _)) = &route { Some(*protocol) } else { None };
    let azure = protocol == Some(Protocol::Azure);
    let result = match route {
        Ok(route) => match answer(app, route, &head, body, started, &mut model).await {
            Ok(reply) => finished(app, &head, reply).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let status = match &result {
        Ok(reply) => reply.status,
        Err(error) => drisse_wire::http_status(error.kind()),
    };
    let took = started.elapsed();
    if let Some(model) = &model {
        model.metrics.finished(status, took);
    }
    log(&head.method, status, &ids, took, model.as_deref(), result.as_ref().err());
    note(app, &head, status, &ids, took, model.as_deref());
    if let (Some(traced), Some(protocol)) = (traced, protocol) {
        let name = format!("{} {}", head.method, protocol.path());
        traced.end(&name, &ids, model.as_deref(), status, result.as_ref().err());
    }
    let failed = result.as_ref().err().map(Error::kind);
    let mut response = match result {
        Ok(reply) => reply.into_response(),
        Err(error) => reply::allow(reply::error(ErrorShape::of(path), &error), Route::methods(path)),
    };
    if azure {
        azure::label(response.headers_mut(), failed);
    }
    if let Some(origin) = origin {
        cors::allow(response.headers_mut(), origin);
    }
    ids.put_on(response, app.is_draining())
}

/// An answer in the coding its client takes, counted as held until it is gone.
async fn finished(app: &App, head: &Parts, reply: Reply) -> Result<Reply> {
    // Asked last: few answers are long enough.
    let coding = if reply.is_worth_packing() { Coding::accepted(&head.headers) } else { None };
    let reply = match coding {
        Some(coding) => reply.packed(coding).await?,
        None => reply,
    };
    reply.held(app)
}

/// Writes the request down where requests are.
pub(crate) fn note(app: &App, head: &Parts, status: u16, ids: &Ids, took: Duration, model: Option<&Model>) {
    if let Some(log) = &app.config.access_log {
        let (method, path) = (head.method.as_str(), head.uri.path());
        let name = model.map_or("", |model| model.name.as_str());
        log.write(&Access { method, path, status, took, request_id: ids.request(), name });
    }
}

/// What goes wrong on our side is for the log; what a client did wrong is told to the client, and
/// only to a log that asks: a client must not be able to fill it.
pub(crate) fn log(
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
    app: &Arc<App>,
    route: Route<'_>,
    head: &Parts,
    body: Incoming,
    started: Instant,
    used: &mut Option<Arc<Model>>,
) -> Result<Reply> {
    if !route.is_open() {
        authorize(app, &head.headers)?;
    }
    match route {
        Route::Healthy => Ok(Reply::text("Healthy")),
        Route::Live => Ok(Reply::json(documents::LIVE)),
        Route::Ready if app.is_ready() => Ok(Reply::json(documents::READY)),
        Route::Ready => Err(Error::new(ErrorKind::Unavailable, "the server is not ready")),
        Route::Version => Ok(Reply::text(env!("CARGO_PKG_VERSION"))),
        Route::Swagger => describe::swagger(app, head.uri.query()),
        Route::Sample(target) => describe::sample(&*find(app, target, started).await?),
        Route::ServerMetadata => Ok(describe::server(app)),
        Route::ModelReady(target) => ready(app, target),
        Route::ModelMetadata(target) => Ok(describe::model(&*find(app, target, started).await?)),
        Route::ModelConfig(target) => Ok(describe::config(&*find(app, target, started).await?)),
        Route::Statistics(Target { name: None, .. }) => Ok(describe::statistics(&app.models())),
        Route::Statistics(target) => Ok(describe::statistics(&[find(app, target, started).await?])),
        Route::V1Models => Ok(describe::v1_models(app)),
        Route::V1Status(target) => Ok(describe::v1_status(&*find(app, target, started).await?)),
        Route::V1Metadata(target) => Ok(describe::v1_metadata(&*find(app, target, started).await?)),
        Route::Repository(asked) => {
            check_control(app)?;
            let deadline = deadline(app, &head.headers, started)?;
            let body = body::read(app, body, deadline).await?;
            repository::answer(app, asked, &body.bytes).await
        }
        Route::Shared(asked) => {
            let deadline = deadline(app, &head.headers, started)?;
            let body = body::read(app, body, deadline).await?;
            shared_memory::answer(app, asked, &body.bytes)
        }
        Route::Run(protocol, target) => {
            let model = find(app, target, started).await?;
            *used = Some(Arc::clone(&model));
            let deadline = deadline(app, &head.headers, started)?;
            acceptable(head, protocol)?;
            let coding = Coding::of_body(&head.headers)?;
            let mut body = body::read(app, body, deadline).await?;
            // Before it is decoded: a refusal costs as little as it can.
            admit(app, &model, deadline)?;
            if let Some(coding) = coding {
                body = coding::unpack(app, coding, body).await?;
            }
            let stages = head.extensions.get().cloned();
            let call = Call { app, model: &model, head, body, deadline, stages };
            match protocol {
                Protocol::Azure => azure::score(call).await,
                Protocol::V2 => v2::infer(call).await,
                Protocol::V1 => v1::predict(call).await,
                Protocol::Invocations => invocations::invoke(call).await,
            }
        }
    }
}

/// A refusal unless the headers carry one of the keys.
pub(crate) fn authorize(app: &App, headers: &HeaderMap) -> Result<()> {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if app.keys.as_ref().is_none_or(|keys| keys.accept(given)) {
        return Ok(());
    }
    app.metrics.refused_keys.inc();
    let message = "the key is missing or wrong: send `Authorization: Bearer KEY`";
    Err(Error::new(ErrorKind::Unauthenticated, message))
}

/// The model of the path, loaded first where it has to be.
async fn find(app: &Arc<App>, target: Target<'_>, started: Instant) -> Result<Arc<Model>> {
    let only = || app.residents.get().and_then(|residents| residents.only());
    let model = match target.name.or_else(only) {
        Some(name) => app.wanted(name, started + app.config.scoring_timeout).await?,
        None => app.only_model()?,
    };
    model.checked(target.version)
}

/// Says that requests for the model of the path are answered.
fn ready(app: &App, target: Target<'_>) -> Result<Reply> {
    let Some(name) = target.name else {
        return Ok(describe::ready(app.only_model()?.checked(target.version)?.name.as_str()));
    };
    app.check_served(name, target.version)?;
    Ok(describe::ready(name))
}

/// The client's `x-request-timeout-ms`, at most the server's own.
pub(crate) fn deadline(app: &App, headers: &HeaderMap, started: Instant) -> Result<Instant> {
    const HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");
    let longest = app.config.scoring_timeout;
    let Some(header) = headers.get(&HEADER) else { return Ok(started + longest) };
    let digits = header.to_str().ok().map(str::trim);
    let digits = digits.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    // More than there are is as long as the server allows.
    let wanted = digits.map(|digits| digits.parse().unwrap_or(u64::MAX)).filter(|&ms| ms > 0);
    let wanted = wanted
        .ok_or_else(|| Error::invalid(format!("{HEADER} is a whole number of milliseconds, at least 1")))?;
    Ok(started + longest.min(Duration::from_millis(wanted)))
}

/// A refusal of a body in a format the endpoint does not speak. What names none passes: `curl -d` calls
/// everything a form.
fn acceptable(head: &Parts, protocol: Protocol) -> Result<()> {
    let Some(given) = head.headers.get(CONTENT_TYPE) else { return Ok(()) };
    if given.as_bytes() == b"application/json" {
        return Ok(());
    }
    let text = String::from_utf8_lossy(given.as_bytes());
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let passes = match &*essence {
        "" | "application/json" | "text/json" | "text/plain" | "application/octet-stream" | "*/*" => true,
        "application/x-www-form-urlencoded" => true,
        "text/csv" => protocol == Protocol::Invocations,
        other => other.ends_with("+json"),
    };
    if passes {
        return Ok(());
    }
    let message = format!("content type `{essence}` is not read here: send application/json");
    Err(Error::new(ErrorKind::UnsupportedMediaType, message))
}
