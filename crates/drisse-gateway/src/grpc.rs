//! gRPC calls. A call goes to one service: the one that its `drisse-service` metadata names, or else the one that its
//! first message names as its model. Streams are forwarded as streams.

mod own;

use crate::answer::AnswerBody;
use crate::error::{ProxyError, unknown_model};
use crate::exchange::Exchange;
use crate::forwarding::{prepare, wanted_timeout};
use crate::protocol::{Arrival, Protocol};
use crate::send::{Outgoing, RequestKind};
use crate::service::Service;
use crate::state::Core;
use crate::upload::{Upload, malformed};
use bytes::{Bytes, BytesMut};
use drisse_core::{Error, ErrorKind, Result, printable};
use drisse_wire::grpc::{self, HEALTH, INFERENCE, Peeked};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{HOST, HeaderName};
use hyper::http::request::Parts;
use hyper::{Response, Uri, Version};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The metadata that names the service of a call.
const SERVICE: HeaderName = HeaderName::from_static("drisse-service");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The number of bytes of a first message that are searched for the name of its model.
const PEEK: usize = 4 << 10;

/// The longest time that these bytes may take to arrive.
const PEEK_TIMEOUT: Duration = Duration::from_secs(10);

/// The gRPC service and method in the path of a call.
#[derive(Clone, Copy)]
struct Method<'a> {
    service: &'a str,
    name: &'a str,
}

/// The beginning of a call's body, and the rest, if any.
struct CallBody {
    first: Bytes,
    rest: Option<Incoming>,
}

impl<'a> Method<'a> {
    fn of(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (service, name) = path.split_once('/').unwrap_or((path, ""));
        Self { service, name }
    }

    /// Returns whether a call may have more than one message in either direction.
    fn streams(self) -> bool {
        matches!(self.name, "ModelStreamInfer" | "Watch" | "ServerReflectionInfo")
    }

    /// Returns whether the call needs no key, because it is a probe.
    fn is_open(self) -> bool {
        self.service == HEALTH || self.service == INFERENCE && self.name == "ModelReady"
    }

    /// Returns whether the gateway answers the call itself if the call names no service.
    fn is_own(self) -> bool {
        matches!(self.name, "ServerLive" | "ServerReady" | "ServerMetadata" | "Check")
    }
}

impl Core {
    /// Answers a gRPC call.
    pub(crate) async fn call(
        &self,
        mut head: Parts,
        body: Incoming,
        started: Instant,
    ) -> Response<AnswerBody> {
        let protocol = Protocol::Grpc;
        let path = head.uri.path().to_owned();
        let method = Method::of(&path);
        let named = head.headers.get(SERVICE).map(|name| printable(name.as_bytes()).into_owned());
        let found = match named {
            Some(name) => Ok((name, CallBody { first: Bytes::new(), rest: Some(body) })),
            None if method.is_own() => {
                let answer = self.own_call(method, body, started).await;
                return answer.unwrap_or_else(|error| protocol.refusal(&error));
            }
            None => self.peek(method, body, started).await,
        };
        let found = found.and_then(|(name, body)| {
            let service = self.state.table.find(&name).map_err(|error| unknown_model(error, &name))?;
            Ok((service, body))
        });
        let (service, body) = match found {
            Ok(found) => found,
            Err(error) => return protocol.refusal(&error),
        };
        let arrival = Arrival { protocol, started, is_open: method.is_open() };
        let exchange = Exchange::begin(&self.state, &service, &mut head, arrival);
        let forwarded = pin!(self.forward_call(service, method, head, body, started));
        exchange.run(forwarded).await
    }

    /// Returns the service that the first message names, and the body. If the message names none, returns the only
    /// service.
    ///
    /// # Errors
    /// Returns an error if no service can be found, or if the message does not arrive in time.
    async fn peek(&self, method: Method<'_>, body: Incoming, started: Instant) -> Result<(String, CallBody)> {
        let body = first(method, body, started).await?;
        let name = match grpc::peek(method.name, &body.first) {
            Peeked::Model(name) if !name.is_empty() => name,
            _ => self.state.table.only_service().ok_or_else(unnamed)?,
        };
        Ok((name, body))
    }

    /// Sends a call to a replica of `service`.
    async fn forward_call(
        &self,
        service: Arc<Service>,
        method: Method<'_>,
        mut head: Parts,
        CallBody { first, rest }: CallBody,
        started: Instant,
    ) -> Result<Response<AnswerBody>, ProxyError> {
        let wanted = head.headers.get(TIMEOUT).map(grpc::timeout).transpose()?;
        let wanted = wanted.or_else(|| wanted_timeout(&head.headers));
        // For a stream, this bounds only the wait for a replica. The replica observes the client's time limit.
        let deadline = started + service.timeout(wanted);
        let kind = if method.streams() { RequestKind::Stream } else { RequestKind::Call };
        let body = Upload::of(first);
        let body = match rest {
            Some(rest) if kind == RequestKind::Stream => body.and(rest),
            Some(rest) => body.read_on(rest, &self.state.uploads, deadline).await?,
            None => body,
        };
        self.prepare_call(&mut head)?;
        let is_timed = wanted.is_some();
        pin!(self.send(Outgoing { service, head, body, kind, started, deadline, is_timed })).await
    }

    fn prepare_call(&self, head: &mut Parts) -> Result<()> {
        prepare(head, &self.state);
        head.headers.remove(HOST);
        head.version = Version::HTTP_2;
        let uri = format!("http://drisse{}", head.uri.path());
        head.uri = Uri::try_from(uri).map_err(|_| Error::invalid("the path cannot be understood"))?;
        Ok(())
    }
}

/// Reads the beginning of a call's first message until it names its model, up to [`PEEK`] bytes.
async fn first(method: Method<'_>, mut body: Incoming, started: Instant) -> Result<CallBody> {
    let mut first = BytesMut::new();
    let whole = |first: BytesMut| Ok(CallBody { first: first.freeze(), rest: None });
    while first.len() < PEEK && (first.is_empty() || grpc::peek(method.name, &first) == Peeked::More) {
        if body.is_end_stream() {
            return whole(first);
        }
        let late = |_| Error::new(ErrorKind::RequestTimeout, "the first message did not arrive in time");
        let frame =
            tokio::time::timeout_at((started + PEEK_TIMEOUT).into(), body.frame()).await.map_err(late)?;
        let Some(frame) = frame else { return whole(first) };
        let frame = frame.map_err(|error| malformed(&error))?;
        if let Ok(data) = frame.into_data() {
            first.extend_from_slice(&data);
        }
    }
    Ok(CallBody { first: first.freeze(), rest: Some(body) })
}

fn unnamed() -> Error {
    Error::invalid(
        "the call names no service: give its name as `drisse-service` metadata, or as the model's name at the beginning \
         of the first message",
    )
}
