//! The control API: handlers parse a request, call a function, and map its result to a response.

mod models;
mod operations;
mod services;
mod signatures;
mod system;
mod uploads;

use crate::control::Control;
use crate::error::ControlError;
use crate::error::Result as Done;
use crate::keys;
use crate::operations::OperationKind;
use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request as AxumRequest};
use axum::http::{Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use drisse_core::ErrorKind;
use drisse_net::{Handler, ListenerKind};
use drisse_wire::control::{FailureBody, Operation};
use drisse_wire::http_status;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tower_service::Service;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The maximum size of a document in a request body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// The default number of items of a page.
const PAGE: u32 = 50;

/// The maximum number of items of a page.
const MAX_PAGE: u32 = 1000;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Drisse control API",
        description = "Manages the models, services and operations of one workspace. Served on a Unix socket for its \
                   user and, if enabled, over TCP for clients with the token in `control.token`."
    ),
    components(schemas(drisse_wire::control::Progress))
)]
struct Document;

/// The handler of the control API's requests.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    router: Router,
    listener: ListenerKind,
    /// The required token; `None` on the Unix socket, which only this user can connect to.
    token: Option<Arc<str>>,
    /// Whether the workspace is down, so that nothing can be changed.
    at_rest: bool,
}

/// Whether a request came over the Unix socket. Only such requests may name files of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Local(bool);

/// A JSON response.
type Answer<T> = Done<axum::Json<T>>;

/// The response of a handler that started an operation.
type Begun = Done<(StatusCode, axum::Json<Operation>)>;

fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(system::status))
        .routes(routes!(system::shutdown))
        .routes(routes!(system::targets))
        .routes(routes!(system::attach, system::detach))
        .routes(routes!(system::verify))
        .routes(routes!(system::repair))
        .routes(routes!(system::collect))
        .routes(routes!(uploads::show, uploads::send))
        .routes(routes!(models::list, models::register))
        .routes(routes!(models::show, models::change, models::delete))
        .routes(routes!(signatures::list, signatures::add))
        .routes(routes!(signatures::trusted, signatures::trust))
        .routes(routes!(services::list, services::deploy))
        .routes(routes!(services::show, services::update, services::delete))
        .routes(routes!(services::rollback))
        .routes(routes!(services::keys, services::change_key))
        .routes(routes!(services::logs))
        .routes(routes!(services::sample))
        .routes(routes!(operations::list))
        .routes(routes!(operations::show))
        .routes(routes!(operations::events))
        .routes(routes!(operations::cancel))
}

/// Returns the OpenAPI document of the control API as JSON.
pub fn openapi() -> String {
    let (_, document) = routes().split_for_parts();
    document.to_pretty_json().unwrap_or_default()
}

impl Api {
    pub(crate) fn local(control: &Control) -> Self {
        Self::new(control, ListenerKind::Unix, None)
    }

    /// Returns the API for TCP, which requires the token. Creates the token if there is none.
    pub(crate) fn remote(control: &Control, listener: ListenerKind) -> Done<Self> {
        let path = control.about.workspace.token();
        let failed = |error: std::io::Error| {
            ControlError::internal(format!("cannot store the token in {}", path.display())).because(&error)
        };
        let token = match std::fs::read_to_string(&path) {
            Ok(token) if !token.trim().is_empty() => token.trim().to_owned(),
            _ => {
                let token = keys::make()?;
                drisse_registry::replace_file(&path, format!("{token}\n").as_bytes()).map_err(failed)?;
                token
            }
        };
        Ok(Self::new(control, listener, Some(token.into())))
    }

    fn new(control: &Control, listener: ListenerKind, token: Option<Arc<str>>) -> Self {
        let (router, _) = routes().split_for_parts();
        let router = router
            .fallback(async || {
                ControlError::not_found("path not found")
                    .hint("the API's paths start with /v1, see /v1/status")
            })
            .method_not_allowed_fallback(async || {
                ControlError::new(ErrorKind::MethodNotAllowed, "this path does not support this method")
            })
            .with_state(control.clone());
        Self { router, listener, token, at_rest: control.about.at_rest }
    }

    /// Returns why a request must be refused; `None` if it is accepted.
    fn refusal<B>(&self, request: &Request<B>) -> Option<ControlError> {
        if let Some(why) = self.listener.refusal(request) {
            return Some(ControlError::new(ErrorKind::Forbidden, why));
        }
        if self.at_rest && request.method() != Method::GET {
            return Some(ControlError::conflict("the workspace is down").hint("`drisse up` starts it"));
        }
        let token = self.token.as_deref()?;
        let given = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
        let given = given.and_then(|given| given.strip_prefix(b"Bearer "));
        let known = given.is_some_and(|given| keys::same(given.trim_ascii(), token.as_bytes()));
        (!known).then(|| {
            ControlError::new(ErrorKind::Unauthenticated, "the token is missing or wrong")
                .hint("it is in `control.token` in the workspace's folder: DRISSE_TOKEN=$(cat control.token)")
        })
    }
}

impl Handler for Api {
    type Body = Body;

    async fn handle(mut self, request: Request<Incoming>) -> Response<Body> {
        if let Some(error) = self.refusal(&request) {
            return error.into_response();
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Local(self.token.is_none()));
        match self.router.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response<Body> {
        let status =
            StatusCode::from_u16(http_status(self.kind)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(FailureBody { error: self.failure })).into_response()
    }
}

/// A JSON body. An empty body is `{}`.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ControlError;

    async fn from_request(request: AxumRequest, _: &S) -> Result<Self, ControlError> {
        let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await;
        let body = body.map_err(|error| {
            ControlError::new(ErrorKind::TooLarge, "the body is too large or incomplete").because(&error)
        })?;
        let body = if body.is_empty() { &b"{}"[..] } else { &body };
        serde_json::from_slice(body)
            .map(Self)
            .map_err(|error| ControlError::invalid("cannot parse the body").because(&error))
    }
}

/// A query string.
pub(crate) struct QueryParams<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ControlError;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, ControlError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let query = query.map_err(|error| ControlError::invalid("cannot parse the query").because(&error))?;
        Ok(Self(query.0))
    }
}

/// Returns the number of items of a page, from what the client asked for.
fn page_limit(asked: Option<u32>) -> u32 {
    asked.unwrap_or(PAGE).clamp(1, MAX_PAGE)
}

/// Starts an operation and returns the response of its handler.
async fn begin(control: &Control, kind: OperationKind, subject: &str, timeout: Option<Duration>) -> Begun {
    let operation = control.operations.begin(kind, subject, timeout).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(operation)))
}

#[cfg(test)]
mod tests {
    /// Clients are generated from this document. `WRITE_DOCS=1 cargo test -p drisse-control` updates it.
    #[test]
    fn the_document_in_docs_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/control-api.json");
        let code = super::openapi() + "\n";
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, &code).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap() == code,
            "docs/control-api.json is outdated: update it with WRITE_DOCS=1"
        );
    }
}
