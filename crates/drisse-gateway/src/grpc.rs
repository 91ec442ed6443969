//! gRPC at the gateway. A call goes to one service: the one its `drisse-service` metadata names, or the model in its
//! first message. A stream stays a stream; it takes no place, because it may be silent for hours, and its replica looks
//! after each of its requests.

use crate::answer::AnswerBody;
use crate::group::Patience;
use crate::proxy::{Proxy, Trouble, late, request_id, tell_rest, wanted_timeout};
use crate::service::Service;
use crate::traced::Traced;
use crate::upload::Upload;
use bytes::{Bytes, BytesMut};
use drisse_core::{Error, ErrorKind, Result};
use drisse_net::Access;
use drisse_wire::grpc::{
    self, HEALTH, INFERENCE, Peeked,
    health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    inference::{ServerLiveResponse, ServerMetadataResponse, ServerReadyResponse},
};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, Uri, Version};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Names the service a call is for.
const SERVICE: HeaderName = HeaderName::from_static("drisse-service");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// In the head of an answer that is nothing but an error.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const UNAVAILABLE: &str = "14";

/// How much of a first message is looked at for its model.
const PEEK: usize = 4 << 10;

/// By when that much has come.
const PEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// A call's path.
#[derive(Clone, Copy)]
struct Method<'a> {
    service: &'a str,
    name: &'a str,
}

impl<'a> Method<'a> {
    fn of(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (service, name) = path.split_once('/').unwrap_or((path, ""));
        Self { service, name }
    }

    /// Whether more than one message may go either way.
    fn streams(self) -> bool {
        matches!(self.name, "ModelStreamInfer" | "Watch" | "ServerReflectionInfo")
    }

    /// Whether it needs no key, as over HTTP.
    fn is_open(self) -> bool {
        self.service == HEALTH || self.service == INFERENCE && self.name == "ModelReady"
    }
}

impl Proxy {
    /// Answers a call of gRPC's.
    pub(crate) async fn call(&self, head: Parts, body: Incoming, started: Instant) -> Response<AnswerBody> {
        match self.answer_call(head, body, started).await {
            Ok(response) => response,
            Err(error) => {
                let mut response = respond(AnswerBody::Whole(None));
                response.headers_mut().extend(grpc::trailers(&error));
                response
            }
        }
    }

    async fn answer_call(
        &self,
        head: Parts,
        body: Incoming,
        started: Instant,
    ) -> Result<Response<AnswerBody>> {
        let path = head.uri.path().to_owned();
        let method = Method::of(&path);
        let named =
            head.headers.get(SERVICE).map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
        let (name, first, body) = match named {
            Some(name) => (name, Bytes::new(), Some(body)),
            None if matches!(method.name, "ServerLive" | "ServerReady" | "ServerMetadata" | "Check") => {
                return self.own_call(method, body, started).await;
            }
            None => {
                let (first, body) = first(method, body, started).await?;
                match grpc::peek(method.name, &first) {
                    Peeked::Model(name) if !name.is_empty() => (name, first, body),
                    _ => (self.shared.table.only_service().ok_or_else(unnamed)?, first, body),
                }
            }
        };
        let Some(service) = self.shared.table.service_named(&name) else {
            self.shared.table.metrics.unknown.inc();
            let name = &name[..name.floor_char_boundary(64)];
            let message = format!("there is no service `{name}`: `drisse services` lists those there are");
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let mut head = head;
        let traced = Traced::begin(&self.shared, &mut head, started).filter(|_| !method.is_open());
        let result = self.forward(&service, method, head, (first, body), started).await;
        let status = result.as_ref().map_or_else(|error| drisse_wire::http_status(error.kind()), |_| 200);
        let took = started.elapsed();
        service.metrics.finished(status, took.as_secs_f64());
        if let Some(log) = &service.access_log {
            let (request_id, name) = (result.as_ref().map_or("", request_id), &service.document.service);
            log.write(&Access { method: "POST", path: &path, status, took, request_id, name });
        }
        if let Some(traced) = traced {
            traced.end(path.trim_start_matches('/'), &service.document.service, status);
        }
        result
    }

    /// What the gateway says of itself.
    async fn own_call(
        &self,
        method: Method<'_>,
        body: Incoming,
        started: Instant,
    ) -> Result<Response<AnswerBody>> {
        let ready = !self.shared.draining.load(Relaxed);
        let message = match (method.service, method.name) {
            (INFERENCE, "ServerLive") => grpc::frame(&ServerLiveResponse { live: true }),
            (INFERENCE, "ServerReady") => grpc::frame(&ServerReadyResponse { ready }),
            (INFERENCE, "ServerMetadata") => grpc::frame(&ServerMetadataResponse {
                name: "drisse".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                extensions: drisse_wire::documents::EXTENSIONS.map(str::to_owned).to_vec(),
            }),
            (HEALTH, "Check") => {
                let (first, _) = first(method, body, started).await?;
                let frame = grpc::only_frame(first, PEEK)?;
                let HealthCheckRequest { service } = grpc::parse(frame.message)?;
                let known = matches!(&*service, "" | HEALTH | INFERENCE);
                let has_replicas =
                    self.shared.table.service_named(&service).map(|service| service.has_replicas());
                let status = match (known, has_replicas) {
                    (true, _) if ready => ServingStatus::Serving,
                    (_, Some(true)) if ready => ServingStatus::Serving,
                    (false, None) => {
                        let service = &service[..service.floor_char_boundary(64)];
                        return Err(Error::new(
                            ErrorKind::NotFound,
                            format!("there is no service `{service}`"),
                        ));
                    }
                    _ => ServingStatus::NotServing,
                };
                grpc::frame(&HealthCheckResponse { status: status.into() })
            }
            _ => return Err(unnamed()),
        };
        Ok(respond(AnswerBody::with_trailers(message, grpc::ok())))
    }

    /// Sends a call to a replica of its service.
    async fn forward(
        &self,
        service: &Arc<Service>,
        method: Method<'_>,
        mut head: Parts,
        (first, body): (Bytes, Option<Incoming>),
        started: Instant,
    ) -> Result<Response<AnswerBody>> {
        if !method.is_open() {
            service.authorize(head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes))?;
        }
        let wanted = head.headers.get(TIMEOUT).map(grpc::timeout).transpose()?;
        let wanted = wanted.or_else(|| wanted_timeout(&head.headers));
        let longest = Duration::from_millis(service.document.scoring_timeout_ms);
        let streams = method.streams();
        // A stream may last; what its client allows is its replica's to keep.
        let deadline = started + wanted.unwrap_or(longest).min(longest);
        let upload = Upload::of(first);
        let upload = match body {
            Some(body) if streams => upload.and(body),
            Some(body) => upload.read_on(body, &self.shared.holding, deadline).await?,
            None => upload,
        };
        self.prepare_call(&mut head)?;
        let patience = Patience { until: deadline.min(started + service.max_wait()), deadline };
        let sent = self.send_call(service, (head, upload), streams, patience, wanted.is_some());
        let result = match streams {
            true => sent.await,
            false => match tokio::time::timeout_at((deadline + crate::proxy::GRACE).into(), sent).await {
                Ok(result) => result,
                Err(_) => return Err(late(service)),
            },
        };
        result.map_err(|trouble| match trouble {
            Trouble::Error(error) | Trouble::Broken(error) => error,
        })
    }

    /// What belongs to the client's connection goes; an id comes.
    fn prepare_call(&self, head: &mut Parts) -> Result<()> {
        crate::proxy::prepare(head, &self.shared);
        head.headers.remove(HOST);
        head.version = Version::HTTP_2;
        let uri = format!("http://drisse{}", head.uri.path());
        head.uri = Uri::try_from(uri).map_err(|_| Error::invalid("the path cannot be understood"))?;
        Ok(())
    }

    async fn send_call(
        &self,
        service: &Arc<Service>,
        (mut head, mut upload): (Parts, Upload),
        streams: bool,
        patience: Patience,
        timed: bool,
    ) -> Result<Response<AnswerBody>, Trouble> {
        let mut service = Arc::clone(service);
        let mut failed = Vec::new();
        loop {
            let slot = match streams && service.has_replicas() {
                true => service.beside(&failed),
                false => self.slot(&mut service, patience, &failed).await?,
            };
            let replica = Arc::clone(&slot.in_flight.0);
            let mut sender = match replica.pool.http2(self.core, &replica.endpoint).await {
                Ok(sender) => sender,
                Err(error) => {
                    drop(slot);
                    self.again(&service, patience.until, &mut failed, replica, &error).await?;
                    continue;
                }
            };
            if !streams {
                tell_rest(&mut head.headers, patience.deadline, timed);
            }
            let request = Request::from_parts(head, upload);
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (mut head, body) = response.into_parts();
                    crate::proxy::hop_by_hop(&mut head.headers);
                    // A refusal says nothing about how long calls take.
                    let worked = head.headers.get(STATUS).is_none_or(|status| status != UNAVAILABLE);
                    let body = AnswerBody::Passed { body, slot: Some(slot), worked };
                    return Ok(Response::from_parts(head, body));
                }
                Err(mut error) => {
                    drop(slot);
                    let unsent = error.take_message();
                    let error = error.into_error();
                    let Some(request) = unsent else {
                        tracing::warn!(service = service.document.service, "a replica broke off: {error:?}");
                        return Err(Trouble::Broken(crate::proxy::broken(&service)));
                    };
                    (head, upload) = request.into_parts();
                    self.again(&service, patience.until, &mut failed, replica, &error).await?;
                }
            }
        }
    }
}

/// The beginning of a call's first message, as much as names its model, and what is still to come.
async fn first(
    method: Method<'_>,
    mut body: Incoming,
    started: Instant,
) -> Result<(Bytes, Option<Incoming>)> {
    let mut first = BytesMut::new();
    while first.len() < PEEK && (first.is_empty() || grpc::peek(method.name, &first) == Peeked::More) {
        if body.is_end_stream() {
            return Ok((first.freeze(), None));
        }
        let late = |_| Error::new(ErrorKind::RequestTimeout, "the first message did not arrive in time");
        let frame =
            tokio::time::timeout_at((started + PEEK_TIMEOUT).into(), body.frame()).await.map_err(late)?;
        let Some(frame) = frame else { return Ok((first.freeze(), None)) };
        let frame = frame.map_err(|error| crate::upload::malformed(&error))?;
        if let Ok(data) = frame.into_data() {
            first.extend_from_slice(&data);
        }
    }
    Ok((first.freeze(), Some(body)))
}

fn unnamed() -> Error {
    Error::invalid(
        "the call names no service: give its name as `drisse-service` metadata, or as the model's name at the beginning \
         of the first message",
    )
}

fn respond(body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
