//! The admin socket: probes, metrics, and the routes.

use crate::state::GatewayState;
use crate::table::TableError;
use bytes::Bytes;
use drisse_net::{Handler, ListenerKind, accepted, blocking};
use drisse_wire::control::Failure;
use drisse_wire::routes::RouteDocument;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The maximum size of a route document in bytes. 1 MiB is enough for 5,000 replicas.
const MAX_DOCUMENT: usize = 1 << 20;

const PATHS: &str = "the paths are /routes/NAME, /live, /ready, /metrics, /identity";

/// The handler of requests to the admin socket.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) state: Arc<GatewayState>,
    /// The document at `/identity`.
    pub(crate) identity: Arc<serde_json::Value>,
    pub(crate) listener: ListenerKind,
}

type Answer = (StatusCode, &'static str, String);

impl Handler for Admin {
    type Body = Full<Bytes>;

    async fn handle(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, content_type, body) = self.answer(request).await;
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let text = |text: &str| (StatusCode::OK, "text/plain; charset=utf-8", text.to_owned());
        let refusal = self.listener.refusal(&request);
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let table = &self.state.table;
        let draining = self.state.is_draining();
        if head.method == Method::GET {
            return match path {
                "/live" => text("live\n"),
                "/ready" if draining => failed(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping"),
                "/ready" => text("ready\n"),
                "/metrics" => {
                    let (content_type, text) = accepted(&head.headers, table.metrics.encode());
                    (StatusCode::OK, content_type, text)
                }
                "/identity" => {
                    let mut identity = (*self.identity).clone();
                    identity["draining"] = json!(draining);
                    (StatusCode::OK, "application/json", identity.to_string())
                }
                "/routes" => {
                    let generations = BTreeMap::from_iter(table.generations());
                    (StatusCode::OK, "application/json", json!(generations).to_string())
                }
                _ => match path.strip_prefix("/routes/").and_then(|name| table.get(name)) {
                    Some(document) => (StatusCode::OK, "application/json", json!(document).to_string()),
                    None => failed(StatusCode::NOT_FOUND, "there is nothing at this path"),
                },
            };
        }
        if let Some(why) = refusal {
            return failed(StatusCode::FORBIDDEN, why);
        }
        match (head.method, path.strip_prefix("/routes/")) {
            (Method::PUT, Some(name)) => self.put(name, body).await,
            (Method::DELETE, Some(name)) => {
                let (table, name) = (Arc::clone(table), name.to_owned());
                match blocking(move || table.remove(&name)).await {
                    Ok(()) => text("removed\n"),
                    Err(error) => refused(&error),
                }
            }
            _ => failed(StatusCode::NOT_FOUND, PATHS),
        }
    }

    async fn put(&self, name: &str, body: Incoming) -> Answer {
        let Ok(body) = Limited::new(body, MAX_DOCUMENT).collect().await else {
            return failed(StatusCode::PAYLOAD_TOO_LARGE, "the document is too large or incomplete");
        };
        let document: RouteDocument = match serde_json::from_slice(&body.to_bytes()) {
            Ok(document) => document,
            Err(error) => {
                let why = format!("the body is not a route document: {error}");
                return failed(StatusCode::BAD_REQUEST, &why);
            }
        };
        if document.service != name {
            return failed(StatusCode::BAD_REQUEST, "the document is for another service");
        }
        let table = Arc::clone(&self.state.table);
        match blocking(move || table.put(document)).await {
            Ok(acknowledged) => (StatusCode::OK, "application/json", json!(acknowledged).to_string()),
            Err(error) => refused(&error),
        }
    }
}

fn refused(error: &TableError) -> Answer {
    let status = match error {
        TableError::Invalid { .. } => StatusCode::BAD_REQUEST,
        TableError::Stale { .. } => StatusCode::CONFLICT,
        TableError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, "application/json", json!({ "error": Failure::of(error) }).to_string())
}

fn failed(status: StatusCode, message: &str) -> Answer {
    (status, "application/json", json!({ "error": Failure::new(message) }).to_string())
}
