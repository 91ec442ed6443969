//! The admin listener: probes, Prometheus, and what an operator may change.

use super::connection::Stream;
use super::reply::{self, Reply};
use crate::app::App;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::ErrorShape;
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Probes and scrapers are few.
pub(crate) const MAX_CONNECTIONS: usize = 256;

/// A probe that has not sent its request by then is gone.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// From where the listener can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    ThisMachine,
    Beyond,
}

/// Serves one connection, until `end`.
pub(crate) async fn serve(app: Arc<App>, stream: Stream, reach: Reach, mut end: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(handle(&app, &request, reach)) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(16 << 10);
    macro_rules! serve {
        ($stream:expr) => {{
            let Ok(stream) = $stream else { return };
            let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = end.wait_for(|end| *end) => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        }};
    }
    match stream {
        Stream::Tcp(stream) => serve!(tokio::net::TcpStream::from_std(stream)),
        Stream::Unix(stream) => serve!(tokio::net::UnixStream::from_std(stream)),
    }
}

fn handle(app: &App, request: &Request<Incoming>, reach: Reach) -> reply::Response {
    let answer = answer(app, request, reach);
    let response = answer.map_or_else(|error| reply::error(ErrorShape::Error, &error), Reply::into_response);
    reply::allow(response, if request.uri().path() == "/drain" { "POST" } else { "GET, HEAD" })
}

fn answer(app: &App, request: &Request<Incoming>, reach: Reach) -> Result<Reply> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/live" if get => Ok(Reply::text("live\n")),
        "/ready" if get && app.is_ready() => Ok(Reply::text("ready\n")),
        "/ready" if get => {
            let why = if app.is_draining() { "the server is stopping" } else { "the models are loading" };
            Err(Error::new(ErrorKind::Unavailable, why))
        }
        "/metrics" if get => {
            let metrics = Reply::text(app.metrics.encode());
            Ok(metrics.of_type("application/openmetrics-text; version=1.0.0; charset=utf-8"))
        }
        "/identity" if get => Ok(Reply::json(identity(app).to_string())),
        "/drain" if request.method() == Method::POST => {
            may_change(request, reach)?;
            app.drain();
            Ok(Reply::text("draining\n"))
        }
        "/drain" => Err(Error::new(ErrorKind::MethodNotAllowed, "this path takes POST")),
        "/live" | "/ready" | "/metrics" | "/identity" => {
            Err(Error::new(ErrorKind::MethodNotAllowed, "this path takes GET"))
        }
        _ => Err(Error::new(ErrorKind::NotFound, "there are /live, /ready, /metrics, /identity and /drain")),
    }
}

/// Changes come from this machine and from no web page.
fn may_change(request: &Request<Incoming>, reach: Reach) -> Result<()> {
    let refused = |why: &str| Err(Error::new(ErrorKind::NotFound, why));
    if reach == Reach::Beyond {
        return refused("this listener can be reached from other machines, so it changes nothing");
    }
    if request.headers().contains_key(ORIGIN) {
        return refused("requests of web pages change nothing here");
    }
    Ok(())
}

fn identity(app: &App) -> serde_json::Value {
    let models: Vec<_> = app
        .models()
        .iter()
        .map(|model| {
            json!({
                "name": model.name.as_str(),
                "version": model.version,
                "digest": model.digest,
                "concurrency": model.limits.concurrency,
            })
        })
        .collect();
    let keys = app.keys.as_ref().map(|keys| {
        let (generation, file) = keys.generation();
        json!({ "generation": generation, "file": format!("sha256:{file}") })
    });
    json!({
        "server": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "nonce": app.nonce,
        "revision": null,
        "ready": app.is_ready(),
        "draining": app.is_draining(),
        "models": models,
        "keys": keys,
    })
}
