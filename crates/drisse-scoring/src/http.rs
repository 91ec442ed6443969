//! HTTP: paths, bodies, responses. Each protocol has a file below, whose handler parses the request, scores it and
//! prints the response.

mod azure;
mod describe;
mod invocations;
pub(crate) mod reply;
pub(crate) mod repository;
pub(crate) mod route;
mod shared_memory;
mod v1;
mod v2;

use crate::app::App;
use crate::body::coding::{self, Coding};
use crate::body::{self, HeldBody, Response};
use crate::exchange::{Counted, Exchange, Operation, Scoring};
use crate::models::Model;
use drisse_core::{Error, ErrorKind, Result, printable};
use drisse_net::cors;
use drisse_wire::ErrorShape;
use drisse_wire::documents::{LIVE, READY, model_config, v1_metadata};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use reply::Reply;
use route::{MemoryKind, Protocol, Route, Target};
use std::sync::Arc;

/// A request that a protocol's handler decodes, scores and answers.
struct Call<'a> {
    scoring: Scoring<'a>,
    head: &'a Parts,
    body: HeldBody,
}

/// Answers a request that is not a gRPC call.
pub(crate) async fn handle(app: &Arc<App>, head: &Parts, body: Incoming) -> Response {
    let mut exchange = Exchange::begin(app, head);
    let origin = cors::origin(&app.config.cors_origins, &head.headers);
    if let (Some(origin), Some(headers)) = (&origin, cors::preflight(&head.method, &head.headers)) {
        let mut response = Reply::empty(204).into_response();
        response.headers_mut().extend(headers);
        cors::allow(response.headers_mut(), origin.clone());
        return exchange.ids.put_on(response, app.is_draining());
    }
    let path = head.uri.path();
    let route = Route::of(&head.method, path);
    let protocol = if let Ok(Route::Run(protocol, _)) = &route { Some(*protocol) } else { None };
    let result = match exchange.ids.check().and(route) {
        Ok(route) => match answer(&mut exchange.counted, route, head, body).await {
            // Its memory counts until it is sent.
            Ok(reply) => reply.packed(&head.headers).await.and_then(|reply| reply.held(app)),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let status = match &result {
        Ok(reply) => reply.status,
        Err(error) => drisse_wire::http_status(error.kind()),
    };
    let operation = protocol.map_or(Operation::Other, |protocol| Operation::Http(protocol.path()));
    let error = result.as_ref().err();
    let ids = exchange.end(head, operation, status, error);
    let failed = error.map(Error::kind);
    let mut response = match result {
        Ok(reply) => reply.into_response(),
        Err(error) => reply::allow(reply::error(ErrorShape::of(path), &error), Route::methods(path)),
    };
    if protocol == Some(Protocol::Azure) {
        azure::label(response.headers_mut(), failed);
    }
    if let Some(origin) = origin {
        cors::allow(response.headers_mut(), origin);
    }
    ids.put_on(response, app.is_draining())
}

async fn answer(counted: &mut Counted<'_>, route: Route<'_>, head: &Parts, body: Incoming) -> Result<Reply> {
    let app = counted.app;
    if !route.is_open() {
        counted.authorize(&head.headers)?;
    }
    match route {
        Route::Options => Ok(Reply::empty(200).header(ALLOW, HeaderValue::from_static("POST, OPTIONS"))),
        Route::Healthy => Ok(Reply::text("Healthy")),
        Route::Live => Ok(Reply::json(LIVE)),
        Route::Ready if app.is_ready() => Ok(Reply::json(READY)),
        Route::Ready => Err(Error::new(ErrorKind::Unavailable, "the server is not ready")),
        Route::Version => Ok(Reply::text(env!("CARGO_PKG_VERSION"))),
        Route::Swagger => describe::swagger(app, head.uri.query()),
        Route::Sample(target) => describe::sample(&*find(counted, target).await?),
        Route::ServerMetadata => Ok(describe::server(app)),
        Route::ModelReady(target) => ready(app, target),
        Route::ModelMetadata(target) => Ok(describe::metadata(app, &*find(counted, target).await?)),
        Route::ModelConfig(target) => Ok(describe::model(&*find(counted, target).await?, model_config)),
        Route::Statistics(Target { name: None, .. }) => Ok(describe::statistics(app.models.loaded().iter())),
        Route::Statistics(target) => {
            let model = find(counted, target).await?;
            Ok(describe::statistics(app.models.loaded().matching(model.name(), target.version)))
        }
        Route::V1Models => Ok(describe::v1_models(app)),
        Route::V1Status(target) => {
            let model = find(counted, target).await?;
            Ok(describe::v1_status(app, model.name(), target.version))
        }
        Route::V1Metadata(target) => Ok(describe::model(&*find(counted, target).await?, v1_metadata)),
        Route::Repository(action) => {
            app.check_model_control()?;
            let body = body::read(app, body, counted.deadline(&head.headers)?).await?;
            repository::answer(app, action, &body.bytes).await
        }
        Route::SharedMemory(kind, action) => {
            let body = body::read(app, body, counted.deadline(&head.headers)?).await?;
            match kind {
                MemoryKind::System => shared_memory::answer(app, action, &body.bytes),
                MemoryKind::Cuda => shared_memory::answer_cuda(action),
            }
        }
        Route::Run(protocol, target) => {
            let model = find(counted, target).await?;
            let mut scoring = counted.scoring(model, counted.latest());
            scoring.deadline = counted.deadline(&head.headers)?;
            acceptable(head, protocol)?;
            let coding = Coding::of_body(&head.headers)?;
            let mut body = body::read(app, body, scoring.deadline).await?;
            scoring.admit()?;
            if let Some(coding) = coding {
                body = coding::unpack(app.config.max_body, coding, body).await?;
            }
            let call = Call { scoring, head, body };
            match protocol {
                Protocol::Azure => azure::score(call).await,
                Protocol::V2 => v2::infer(call).await,
                Protocol::V1 => v1::predict(call).await,
                Protocol::Invocations => invocations::invoke(call).await,
            }
        }
    }
}

/// Returns the model that the path names, and loads it first if that is necessary.
async fn find(counted: &Counted<'_>, target: Target<'_>) -> Result<Arc<Model>> {
    let models = &counted.app.models;
    match target.name.or_else(|| models.only_on_demand()) {
        Some(name) => models.find(name, target.version, counted.latest()).await,
        None => models.only(target.version),
    }
}

/// Answers whether requests for the model that the path names are answered.
fn ready(app: &App, target: Target<'_>) -> Result<Reply> {
    let Some(name) = target.name else {
        return Ok(describe::ready(app.models.only(target.version)?.name()));
    };
    app.models.check_served(name, target.version)?;
    Ok(describe::ready(name))
}

/// Refuses a body in a format that the endpoint does not support. Types that name no format pass: `curl -d` sends every
/// body as a form.
fn acceptable(head: &Parts, protocol: Protocol) -> Result<()> {
    let Some(given) = head.headers.get(CONTENT_TYPE) else { return Ok(()) };
    if given.as_bytes() == b"application/json" {
        return Ok(());
    }
    let text = printable(given.as_bytes());
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
