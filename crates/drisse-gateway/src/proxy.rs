//! HTTP requests: finds the service, checks the key, reads the body, and sends the request to a replica. gRPC calls are
//! handled by [`crate::grpc`].

use crate::answer::{AnswerBody, own};
use crate::error::{ProxyError, unknown_model};
use crate::exchange::Exchange;
use crate::forwarding::{inner_uri, prepare, wanted_timeout};
use crate::path::{self, OwnPath, Route};
use crate::protocol::{Arrival, Protocol};
use crate::send::{Outgoing, RequestKind};
use crate::service::Service;
use crate::state::Core;
use crate::upload::Upload;
use drisse_core::{Error, ErrorKind};
use drisse_net::{Handler, cors};
use drisse_wire::documents;
use drisse_wire::ids::{AzureIds, REQUEST_ID};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

impl Handler for Core {
    type Body = AnswerBody;

    async fn handle(self, request: Request<Incoming>) -> Response<AnswerBody> {
        let started = Instant::now();
        let is_call = drisse_wire::grpc::is_call(&request);
        let (head, body) = request.into_parts();
        if is_call {
            return pin!(self.call(head, body, started)).await;
        }
        let http1 = head.version < Version::HTTP_2;
        let mut head = head;
        let ids = self.azure_ids(&mut head);
        let mut response = pin!(self.answer(head, body, started)).await;
        // Replicas have put theirs on their answers.
        if let Some(ids) = ids.filter(|_| !response.headers().contains_key(REQUEST_ID)) {
            ids.put_on(response.headers_mut());
        }
        if http1 && self.state.is_draining() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Core {
    /// Returns the ids of a request on a path of Azure ML's, which gets one if it has none.
    fn azure_ids(&self, head: &mut Parts) -> Option<AzureIds> {
        let path = match Route::of(head.uri.path()) {
            Route::Service { path, .. } => path,
            Route::Own(OwnPath::Healthy) => "/",
            Route::Own(_) | Route::Unknown => return None,
        };
        if !AzureIds::has_path(path) {
            return None;
        }
        let request = head.headers.entry(REQUEST_ID).or_insert_with(|| self.state.request_ids.next()).clone();
        Some(AzureIds::of(&head.headers, request))
    }

    async fn answer(&self, mut head: Parts, body: Incoming, started: Instant) -> Response<AnswerBody> {
        let protocol = Protocol::Http(path::shape(head.uri.path()));
        let (name, path) = match Route::of(head.uri.path()) {
            Route::Own(path) => return self.own_answer(path, &head.method, protocol),
            Route::Unknown => return protocol.refusal(&unknown_path(head.uri.path())),
            Route::Service { name, path } => (name, path),
        };
        let service = match self.state.table.find(name) {
            Ok(service) => service,
            Err(error) if path.starts_with("/v2/models/") => {
                return protocol.refusal(&unknown_model(error, name));
            }
            Err(error) => return protocol.refusal(&error),
        };
        let origin = cors::origin(&service.document.cors_origins, &head.headers);
        if let (Some(origin), Some(headers)) = (&origin, cors::preflight(&head.method, &head.headers)) {
            let mut response = own(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", "");
            response.headers_mut().extend(headers);
            cors::allow(response.headers_mut(), origin.clone());
            return response;
        }
        if head.method == Method::OPTIONS && path::is_score(path) {
            let mut response = own(StatusCode::OK, "text/plain; charset=utf-8", "");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
            return response;
        }
        let arrival = Arrival { protocol, started, is_open: path::is_open(path) };
        let inner = inner_uri(path, head.uri.query());
        let exchange = Exchange::begin(&self.state, &service, &mut head, arrival);
        let forwarded = pin!(self.forward(service, (head, inner), body, arrival));
        let mut response = exchange.run(forwarded).await;
        if let Some(origin) = origin {
            cors::allow(response.headers_mut(), origin);
        }
        response
    }

    /// Sends a request to a replica of `service`, with the target `inner`.
    async fn forward(
        &self,
        service: Arc<Service>,
        (mut head, inner): (Parts, Option<Uri>),
        body: Incoming,
        Arrival { started, is_open, .. }: Arrival,
    ) -> Result<Response<AnswerBody>, ProxyError> {
        head.uri = inner.ok_or_else(|| Error::invalid("the path cannot be understood"))?;
        let wanted = wanted_timeout(&head.headers);
        let deadline = started + service.timeout(wanted);
        let body = Upload::read(body, &self.state.uploads, deadline).await?;
        prepare(&mut head, &self.state);
        let kind = if is_open { RequestKind::Probe } else { RequestKind::Http };
        let is_timed = wanted.is_some();
        pin!(self.send(Outgoing { service, head, body, kind, started, deadline, is_timed })).await
    }

    /// Answers a request to the gateway itself.
    fn own_answer(&self, path: OwnPath, method: &Method, protocol: Protocol) -> Response<AnswerBody> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let message = format!("this path takes GET, not {method}");
            return protocol.refusal(&Error::new(ErrorKind::MethodNotAllowed, message));
        }
        match path {
            OwnPath::Healthy => own(StatusCode::OK, "text/plain; charset=utf-8", "Healthy"),
            OwnPath::Live => own(StatusCode::OK, "application/json", documents::LIVE),
            OwnPath::Ready if self.state.is_draining() => {
                own(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", "stopping\n")
            }
            OwnPath::Ready => own(StatusCode::OK, "application/json", documents::READY),
            OwnPath::Metadata => {
                let metadata = documents::server_metadata(env!("CARGO_PKG_VERSION"), &documents::EXTENSIONS);
                own(StatusCode::OK, "application/json", metadata.to_string())
            }
        }
    }
}

fn unknown_path(path: &str) -> Error {
    let path = &path[..path.floor_char_boundary(128)];
    let message = format!(
        "there is nothing at {path}: services are at /api/v1/service/NAME/score and /v2/models/NAME/infer"
    );
    Error::new(ErrorKind::NotFound, message)
}
