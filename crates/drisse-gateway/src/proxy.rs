//! What happens to a request: find its service, check its key, wait for a place, send it, hand the
//! answer on as it comes.

use crate::answer::{AnswerBody, Room, Source, own, refusal};
use crate::group::{Patience, Slot};
use crate::path::{self, Own, Route};
use crate::pool::Upstream;
use crate::replica::Replica;
use crate::service::{NoSlot, Service};
use crate::table::Table;
use crate::traced::{self, Traced};
use crate::upload::{Holding, Upload, malformed};
use bytes::Bytes;
use drisse_core::{Error, ErrorKind};
use drisse_net::trace::Traces;
use drisse_net::{Access, Handler, cors};
use drisse_wire::documents;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The replica's own 504 says more than the gateway's: it gets this much longer to say it.
pub(crate) const GRACE: Duration = Duration::from_millis(250);

/// Between tries while a replica that died is still in the routes.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

const DEADLINE: HeaderName = HeaderName::from_static("x-request-timeout-ms");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What all cores share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) table: Arc<Table>,
    pub(crate) draining: AtomicBool,
    pub(crate) nonce: String,
    pub(crate) requests: AtomicU64,
    /// What traces requests, where anything does.
    pub(crate) traces: Option<Arc<Traces>>,
    /// What is held of requests' bodies …
    pub(crate) holding: Holding,
    /// … and of answers.
    pub(crate) room: Room,
}

impl Shared {
    pub(crate) fn new(table: &Arc<Table>, nonce: &str, traces: Option<Arc<Traces>>) -> Arc<Self> {
        Arc::new(Self {
            traces,
            table: Arc::clone(table),
            draining: AtomicBool::new(false),
            nonce: nonce.to_owned(),
            requests: AtomicU64::new(0),
            holding: Holding::default(),
            room: Room::default(),
        })
    }
}

/// One core's handler.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) core: usize,
}

/// How long a request has been here already, and whether its client counts.
#[derive(Clone, Copy)]
struct Waited {
    since: Instant,
    timed: bool,
    /// Whether it needs no key, and so no place.
    open: bool,
}

/// Why there is no answer of a replica's.
pub(crate) enum Trouble {
    Error(Error),
    /// The replica broke off after it may have begun.
    Broken(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Handler for Proxy {
    type Body = AnswerBody;

    async fn handle(self, request: Request<Incoming>) -> Response<AnswerBody> {
        let started = Instant::now();
        let is_call = drisse_wire::grpc::is_call(&request);
        let (mut head, body) = request.into_parts();
        if is_call {
            return self.call(head, body, started).await;
        }
        let http1 = head.version < Version::HTTP_2;
        let shape = path::shape(head.uri.path());
        let mut response = match Route::of(head.uri.path()) {
            Route::Own(_) if !matches!(head.method, Method::GET | Method::HEAD) => {
                let message = format!("this path takes GET, not {}", head.method);
                refusal(shape, &Error::new(ErrorKind::MethodNotAllowed, message), false)
            }
            Route::Own(what) => self.own(what),
            Route::Unknown => refusal(shape, &unknown(head.uri.path()), false),
            Route::Service { name, path } => {
                let Some(service) = self.shared.table.service_named(name) else {
                    self.shared.table.metrics.unknown.inc();
                    let name = &name[..name.floor_char_boundary(64)];
                    let message =
                        format!("there is no service `{name}`: `drisse services` lists those there are");
                    return refusal(shape, &Error::new(ErrorKind::NotFound, message), false);
                };
                let origin = cors::origin(&service.document.cors_origins, &head.headers);
                if let (Some(origin), Some(headers)) = (&origin, cors::preflight(&head.method, &head.headers))
                {
                    let mut response = own(StatusCode::NO_CONTENT, "text/plain; charset=utf-8", "");
                    response.headers_mut().extend(headers);
                    cors::allow(response.headers_mut(), origin.clone());
                    return response;
                }
                let open = path::is_open(path);
                let asked = service.access_log.is_some().then(|| (head.method.clone(), head.uri.clone()));
                let inner = inner_uri(path, head.uri.query());
                let traced = Traced::begin(&self.shared, &mut head, started).filter(|_| !open);
                let kind = traced.is_some().then(|| format!("{} /api/v1/service/{{service}}", head.method));
                let result = match inner {
                    Some(uri) => {
                        head.uri = uri;
                        self.service(&service, head, body, open, started).await
                    }
                    None => Err(Error::invalid("the path cannot be understood").into()),
                };
                let mut response = result.unwrap_or_else(|trouble| match trouble {
                    Trouble::Error(error) => refusal(shape, &error, false),
                    Trouble::Broken(error) => refusal(shape, &error, true),
                });
                if let Some(origin) = origin {
                    cors::allow(response.headers_mut(), origin);
                }
                let status = response.status().as_u16();
                let took = started.elapsed();
                service.metrics.finished(status, took.as_secs_f64());
                if let (Some(log), Some((method, uri))) = (&service.access_log, asked) {
                    let (method, path, request_id) = (method.as_str(), uri.path(), request_id(&response));
                    let name = &service.document.service;
                    log.write(&Access { method, path, status, took, request_id, name });
                }
                if let Some(traced) = traced {
                    traced.end(&kind.unwrap_or_default(), &service.document.service, status);
                }
                response
            }
        };
        if http1 && self.shared.draining.load(Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Proxy {
    fn own(&self, what: Own) -> Response<AnswerBody> {
        match what {
            Own::Healthy => own(StatusCode::OK, "text/plain; charset=utf-8", "Healthy"),
            Own::Live => own(StatusCode::OK, "application/json", documents::LIVE),
            Own::Ready if self.shared.draining.load(Relaxed) => {
                own(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", "stopping\n")
            }
            Own::Ready => own(StatusCode::OK, "application/json", documents::READY),
            Own::Metadata => {
                let metadata = documents::server_metadata(env!("CARGO_PKG_VERSION"), &documents::EXTENSIONS);
                own(StatusCode::OK, "application/json", metadata.to_string())
            }
        }
    }

    async fn service(
        &self,
        service: &Arc<Service>,
        mut head: Parts,
        body: Incoming,
        open: bool,
        started: Instant,
    ) -> Result<Response<AnswerBody>, Trouble> {
        if !open {
            service.authorize(head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes))?;
        }
        let wanted = wanted_timeout(&head.headers);
        let longest = Duration::from_millis(service.document.scoring_timeout_ms);
        let deadline = started + wanted.unwrap_or(longest).min(longest);
        let body = Upload::read(body, &self.shared.holding, deadline).await?;
        prepare(&mut head, &self.shared);
        let waited = Waited { since: started, timed: wanted.is_some(), open };
        let sent = self.send(service, head, body, deadline, waited);
        match tokio::time::timeout_at((deadline + GRACE).into(), sent).await {
            Ok(result) => result,
            Err(_) => Err(late(service).into()),
        }
    }

    /// Sends the request to a replica; to another one where it was surely not begun.
    async fn send(
        &self,
        service: &Arc<Service>,
        mut head: Parts,
        mut body: Upload,
        deadline: Instant,
        waited: Waited,
    ) -> Result<Response<AnswerBody>, Trouble> {
        let until = deadline.min(waited.since + service.max_wait());
        let patience = Patience { until, deadline };
        let mut service = Arc::clone(service);
        let mut failed = Vec::new();
        loop {
            let slot = match waited.open && service.has_replicas() {
                true => service.beside(&failed),
                false => self.slot(&mut service, patience, &failed).await?,
            };
            traced::waited(&head, waited.since);
            let replica = Arc::clone(&slot.in_flight.0);
            let mut upstream = match replica.connect(self.core).await {
                Ok(upstream) => upstream,
                Err(error) => {
                    drop(slot);
                    self.again(&service, until, &mut failed, replica, &error).await?;
                    continue;
                }
            };
            let late = waited.since.elapsed() > Duration::from_millis(1);
            tell_rest(&mut head.headers, deadline, waited.timed || late);
            let retry = retained(&head, &body);
            let request = Request::from_parts(head, body);
            match upstream.sender.try_send_request(request).await {
                Ok(response) => {
                    let passed = self.pass(response, slot, upstream).await;
                    return passed.map_err(|error| {
                        tracing::warn!(service = service.document.service, "an answer broke off: {error:?}");
                        Trouble::Broken(broken(&service))
                    });
                }
                Err(mut error) => {
                    drop(slot);
                    let unsent = error.take_message();
                    let error = error.into_error();
                    if error.is_user() {
                        return Err(malformed(&error).into());
                    }
                    // A connection that was used before may have been closed in the meantime: then
                    // nothing of the request was read, and hyper gives it back.
                    let Some(request) = unsent.or_else(|| retry.filter(|_| refused_unread(&error))) else {
                        tracing::warn!(service = service.document.service, "a replica broke off: {error:?}");
                        return Err(Trouble::Broken(broken(&service)));
                    };
                    (head, body) = request.into_parts();
                    // One that had been idle may only have been closed meanwhile: another is opened.
                    if !upstream.used {
                        self.again(&service, until, &mut failed, replica, &error).await?;
                    }
                }
            }
        }
    }

    /// A place at a replica of the service as it is routed now.
    pub(crate) async fn slot(
        &self,
        service: &mut Arc<Service>,
        patience: Patience,
        failed: &[Arc<Replica>],
    ) -> Result<Slot, Trouble> {
        loop {
            if service.has_replicas() {
                match service.slot(patience, failed).await {
                    Ok(slot) => return Ok(slot),
                    Err(NoSlot::Refused(_)) if patience.deadline <= Instant::now() => {
                        return Err(late(service).into());
                    }
                    Err(NoSlot::Refused(error)) => return Err(error.into()),
                    Err(NoSlot::Changed) => *service = self.current(service)?,
                }
                continue;
            }
            // One may be on its way: it is worth the same wait as a busy one.
            let mut changes = self.shared.table.changes();
            *service = self.current(service)?;
            if !service.has_replicas()
                && tokio::time::timeout_at(patience.until.into(), changes.changed()).await.is_err()
            {
                return Err(service.unavailable().into());
            }
        }
    }

    /// The service as it is routed now.
    fn current(&self, service: &Service) -> Result<Arc<Service>, Error> {
        let name = &service.document.service;
        let gone = || Error::new(ErrorKind::NotFound, format!("service `{name}` was deleted"));
        self.shared.table.service_named(name).ok_or_else(gone)
    }

    /// Remembers that a replica failed. Once all have, pauses and tries them again; an error once there
    /// is no time for that.
    pub(crate) async fn again(
        &self,
        service: &Service,
        until: Instant,
        failed: &mut Vec<Arc<Replica>>,
        replica: Arc<Replica>,
        error: &(dyn std::fmt::Display + Sync),
    ) -> Result<(), Trouble> {
        service.metrics.retries.inc();
        failed.push(replica);
        if failed.len() < service.replica_count() {
            return Ok(());
        }
        failed.clear();
        if Instant::now() + RETRY_PAUSE > until {
            tracing::warn!(service = service.document.service, "no replica can be reached: {error}");
            return Err(service.unavailable().into());
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }

    async fn pass(
        &self,
        response: Response<Incoming>,
        slot: Slot,
        upstream: Upstream,
    ) -> hyper::Result<Response<AnswerBody>> {
        let (mut head, body) = response.into_parts();
        hop_by_hop(&mut head.headers);
        head.version = Version::HTTP_11;
        let worked = head.status != StatusCode::SERVICE_UNAVAILABLE;
        let source = Source { body, slot, upstream, core: self.core, worked };
        let body = source.read(&self.shared.room).await?;
        Ok(Response::from_parts(head, body))
    }
}

/// What its replica, or the client, calls the request.
pub(crate) fn request_id(response: &Response<AnswerBody>) -> &str {
    let id = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    id.unwrap_or_default()
}

fn inner_uri(path: &str, query: Option<&str>) -> Option<Uri> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Uri::from_maybe_shared(Bytes::from(text)).ok()
}

/// The request once more, where its body is still here.
fn retained(head: &Parts, body: &Upload) -> Option<Request<Upload>> {
    let mut copy = Request::new(body.again()?);
    *copy.method_mut() = head.method.clone();
    *copy.uri_mut() = head.uri.clone();
    *copy.headers_mut() = head.headers.clone();
    Some(copy)
}

/// Whether the replica surely did not read the whole request: it was not sent, or the connection was
/// reset, which is how a socket with unread bytes ends. A replica scores only what it has read whole; one
/// that read everything and then ended leaves an orderly end instead.
fn refused_unread(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_canceled() || source.is_some_and(|io| matches!(io.kind(), BrokenPipe | ConnectionReset))
}

/// The client's own limit. One that makes no sense is for the replica to refuse.
pub(crate) fn wanted_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(DEADLINE)?.to_str().ok()?;
    text.trim().parse().ok().filter(|&ms| ms > 0).map(Duration::from_millis)
}

/// Tells a replica how much time is left, where that matters.
pub(crate) fn tell_rest(headers: &mut HeaderMap, deadline: Instant, matters: bool) {
    if matters {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        headers.insert(DEADLINE, HeaderValue::from(left.max(1)));
    }
}

/// What is between the client and the gateway stays there; what the replica needs is added.
pub(crate) fn prepare(head: &mut Parts, shared: &Shared) {
    hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    if !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, HeaderValue::from_static("drisse"));
    }
    if !head.headers.contains_key(REQUEST_ID) {
        let id = format!("{}-{:x}", &shared.nonce[..12], shared.requests.fetch_add(1, Relaxed));
        if let Ok(id) = HeaderValue::try_from(id) {
            head.headers.insert(REQUEST_ID, id);
        }
    }
}

/// Removes what RFC 9110, section 7.6.1, says belongs to one connection.
pub(crate) fn hop_by_hop(headers: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    // It may stand there several times.
    let all: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for named in all {
        for name in named.to_str().unwrap_or_default().split(',').map(str::trim) {
            // What frames the message is not a client's to remove.
            if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
                headers.remove(name);
            }
        }
    }
    if headers.remove(TRANSFER_ENCODING).is_some() {
        headers.remove(CONTENT_LENGTH);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRAILER, UPGRADE] {
        headers.remove(name);
    }
}

fn unknown(path: &str) -> Error {
    let path = &path[..path.floor_char_boundary(128)];
    let message = format!(
        "there is nothing at {path}: services are at /api/v1/service/NAME/score and /v2/models/NAME/infer"
    );
    Error::new(ErrorKind::NotFound, message)
}

pub(crate) fn late(service: &Service) -> Error {
    let message = format!(
        "the deadline passed before a replica of service `{}` had answered: allow more with \
         x-request-timeout-ms, or `drisse update {} --scoring-timeout`",
        service.document.service, service.document.service
    );
    Error::new(ErrorKind::DeadlineExceeded, message)
}

pub(crate) fn broken(service: &Service) -> Error {
    let name = &service.document.service;
    Error::internal(format!(
        "a replica of service `{name}` ended while it had this request: `drisse services show {name}` says why; \
         it may have been scored, so it was not sent again"
    ))
}
