//! The admin listener: probes, Prometheus, and the changes that an operator may make.

mod triton;

use crate::app::App;
use crate::body::{self, Response, ResponseBody};
use crate::exchange::Exchange;
use crate::http::reply::{self, Reply};
use crate::http::route::{RepositoryAction, Route};
use crate::models::Model;
use crate::{grpc, http};
use drisse_core::{Error, ErrorKind, Result};
use drisse_net::{Handler, ListenerKind, accepted, blocking};
use drisse_wire::ErrorShape;
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

/// Who can connect to the listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Only clients on this machine.
    ThisMachine(ListenerKind),
    /// Other machines too.
    Beyond,
}

/// Answers the requests of the admin listener.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) app: Arc<App>,
    pub(crate) reach: Reach,
}

impl Handler for Admin {
    type Body = ResponseBody;

    async fn handle(self, request: Request<Incoming>) -> Response {
        let (app, reach) = (&self.app, self.reach);
        if drisse_wire::grpc::is_call(&request) {
            let allowed = may_change(&request, reach);
            let (head, body) = request.into_parts();
            return grpc::handle_operator(Exchange::begin(app, &head), &head, body, allowed).await;
        }
        let path = request.uri().path().to_owned();
        let in_repository = path.starts_with("/v2/repository/");
        let changes = in_repository || matches!(&*path, "/drain" | "/reload");
        let result = match Route::of(request.method(), &path) {
            Ok(Route::Repository(action)) => repository(app, action, request, reach).await,
            Err(error) if in_repository => Err(error),
            _ => answer(app, &request, reach).await,
        };
        let response =
            result.map_or_else(|error| reply::error(ErrorShape::Error, &error), Reply::into_response);
        reply::allow(response, if changes { "POST" } else { "GET, HEAD" })
    }
}

/// Loads and unloads models, as the scoring port does with `--model-control`.
async fn repository(
    app: &Arc<App>,
    action: RepositoryAction<'_>,
    request: Request<Incoming>,
    reach: Reach,
) -> Result<Reply> {
    may_change(&request, reach)?;
    let deadline = Instant::now() + app.config.body_timeout;
    let body = body::read(app, request.into_body(), deadline).await?;
    http::repository::answer(app, action, &body.bytes).await
}

async fn answer(app: &Arc<App>, request: &Request<Incoming>, reach: Reach) -> Result<Reply> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/live" if get => Ok(Reply::text("live\n")),
        "/ready" if get && app.is_ready() => Ok(Reply::text("ready\n")),
        "/ready" if get => {
            let why = if app.is_draining() { "the server is stopping" } else { "the models are loading" };
            Err(Error::new(ErrorKind::Unavailable, why))
        }
        "/metrics" if get => {
            let from = Arc::clone(app);
            // Counting open files blocks, and a thousand models have thousands of lines.
            let metrics = blocking(move || match (from.metrics.encode(), from.config.triton_metrics) {
                (metrics, true) => triton::append(&metrics, &from.models.loaded()),
                (metrics, false) => metrics,
            });
            let (content_type, metrics) = accepted(request.headers(), metrics.await);
            Ok(Reply::text(metrics).of_type(content_type))
        }
        "/identity" if get => Ok(Reply::json(identity(app).to_string())),
        "/drain" if request.method() == Method::POST => {
            may_change(request, reach)?;
            app.drain();
            Ok(Reply::text("draining\n"))
        }
        "/reload" if request.method() == Method::POST => {
            may_change(request, reach)?;
            let of = Arc::clone(app);
            let reloaded = blocking(move || of.keys.as_ref().map_or(Ok(false), crate::Keys::reload));
            reloaded.await.map_err(|error| Error::internal(error.to_string()))?;
            Ok(Reply::json(identity(app).to_string()))
        }
        "/drain" | "/reload" => Err(Error::new(ErrorKind::MethodNotAllowed, "this path takes POST")),
        "/live" | "/ready" | "/metrics" | "/identity" => {
            Err(Error::new(ErrorKind::MethodNotAllowed, "this path takes GET"))
        }
        _ => Err(Error::new(
            ErrorKind::NotFound,
            "there are /live, /ready, /metrics, /identity, /drain, /reload and /v2/repository",
        )),
    }
}

/// Refuses changes from other machines and from web pages.
fn may_change(request: &Request<Incoming>, reach: Reach) -> Result<()> {
    let refused = |why: &str| Err(Error::new(ErrorKind::NotFound, why));
    let Reach::ThisMachine(kind) = reach else {
        return refused("this listener can be reached from other machines, so it changes nothing");
    };
    kind.refusal(request).map_or(Ok(()), refused)
}

fn identity(app: &App) -> serde_json::Value {
    let model = |model: &Arc<Model>| {
        json!({
            "name": model.name(),
            "version": model.version,
            "digest": model.digest,
            "concurrency": model.runner.useful_concurrency(),
        })
    };
    let keys = app.keys.as_ref().map(|keys| {
        let (generation, file) = keys.generation();
        json!({ "generation": generation, "file": format!("sha256:{file}") })
    });
    json!({
        "server": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "nonce": app.nonce,
        "build": app.config.build,
        "replica": app.config.replica,
        "ready": app.is_ready(),
        "draining": app.is_draining(),
        "models": app.models.loaded().iter().map(model).collect::<serde_json::Value>(),
        "keys": keys,
    })
}
