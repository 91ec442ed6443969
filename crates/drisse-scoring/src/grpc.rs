//! gRPC on the scoring port: parse a message, call the same functions as HTTP, frame the response.
//!
//! Frames and statuses come from `drisse_wire::grpc` and not from a library, because bodies are read as all other
//! bodies: counted against the server's memory, and decompressed on a thread that serves no connections.

mod health;
mod inference;
mod messages;
mod reflection;
mod repository;
mod tensorflow;

use crate::app::App;
use crate::body::coding::{Coding, GRPC_ACCEPT_ENCODING, GRPC_ENCODING, pack, unpack};
use crate::body::{self, HeldBody, Response, ResponseBody};
use crate::exchange::{Counted, Exchange, Operation, status};
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::grpc;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use messages::Messages;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A gRPC call, without its messages.
struct Call {
    app: Arc<App>,
    method: String,
    deadline: Instant,
    /// The compression of its messages.
    coding: Option<Coding>,
}

/// The response to a call.
enum Answer {
    /// One message.
    One(Bytes),
    /// Several messages, and then the trailers.
    Stream(ResponseBody),
}

/// Answers a call on the scoring port.
pub(crate) async fn handle(mut exchange: Exchange<'_>, head: &Parts, body: Incoming) -> Response {
    let result = answer(&mut exchange.counted, head, body).await;
    conclude(exchange, head, Operation::Grpc, result).await
}

/// Answers an operator's call on the admin listener: to the model repository, or a health check.
pub(crate) async fn handle_operator(
    exchange: Exchange<'_>,
    head: &Parts,
    body: Incoming,
    allowed: Result<()>,
) -> Response {
    let result = operate(&exchange.counted, head, body, allowed).await;
    conclude(exchange, head, Operation::Other, result).await
}

async fn operate(counted: &Counted<'_>, head: &Parts, body: Incoming, allowed: Result<()>) -> Result<Answer> {
    allowed?;
    let call = Call::of(counted, head)?;
    match target(head).0 {
        inference::SERVICE => {
            let read = call.message(body).await?;
            let answer = repository::answer(&call.app, &call.method, read.bytes.clone()).await?;
            Ok(Answer::One(call.app.memory.hold_response(answer)?))
        }
        health::SERVICE => health::answer(call, body).await,
        other => Err(unknown(other)),
    }
}

/// Ends the exchange, and creates the response of its result.
async fn conclude(
    exchange: Exchange<'_>,
    head: &Parts,
    operation: Operation,
    result: Result<Answer>,
) -> Response {
    let app = exchange.counted.app;
    let coding = Coding::of_grpc(&head.headers).ok().flatten();
    let result = match result {
        Ok(Answer::One(message)) => {
            one(coding.filter(|coding| coding.is_read_by(&head.headers)), message).await
        }
        Ok(Answer::Stream(body)) => Ok(respond(body)),
        Err(error) => Err(error),
    };
    let (status, error) = (status(&result), result.as_ref().err());
    let ids = exchange.end(head, operation, status, error);
    let response = result.unwrap_or_else(|error| {
        let mut response = respond(ResponseBody::whole(Bytes::new()));
        response.headers_mut().extend(grpc::trailers(&error));
        response
    });
    ids.put_on(response, app.is_draining())
}

/// Creates a response with one message, compressed as the request was.
async fn one(coding: Option<Coding>, message: Bytes) -> Result<Response> {
    let packed = match coding {
        Some(coding) => pack(coding, message.slice(grpc::HEAD..)).await?.map(|packed| (coding, packed)),
        None => None,
    };
    let Some((coding, packed)) = packed else {
        return Ok(respond(ResponseBody::with_trailers(message, grpc::ok())));
    };
    let mut response = respond(ResponseBody::with_trailers(grpc::packed_frame(&packed), grpc::ok()));
    response.headers_mut().insert(GRPC_ENCODING, coding.name());
    Ok(response)
}

fn respond(body: ResponseBody) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,deflate,gzip"));
    response
}

async fn answer(counted: &mut Counted<'_>, head: &Parts, body: Incoming) -> Result<Answer> {
    let (service, method) = target(head);
    let is_open = service == health::SERVICE
        || service == inference::SERVICE && matches!(method, "ServerLive" | "ServerReady" | "ModelReady");
    if !is_open {
        counted.authorize(&head.headers)?;
    }
    let call = Call::of(counted, head)?;
    match service {
        inference::SERVICE => inference::answer(counted, call, body).await,
        health::SERVICE => health::answer(call, body).await,
        grpc::PREDICTION | grpc::MODELS => tensorflow::answer(counted, service, call, body).await,
        reflection::SERVICE | reflection::SERVICE_ALPHA => reflection::answer(call, body),
        _ => Err(unknown(&format!("{service}/{method}"))),
    }
}

/// Returns the service and the method that a call's path names.
fn target(head: &Parts) -> (&str, &str) {
    let path = head.uri.path().strip_prefix('/').unwrap_or_default();
    path.split_once('/').unwrap_or((path, ""))
}

fn unknown(path: &str) -> Error {
    let shown = &path[..path.floor_char_boundary(80)];
    Error::new(
        ErrorKind::MethodNotAllowed,
        format!("there is no method `{shown}`: server reflection lists the methods"),
    )
}

/// Returns the deadline of the client's `grpc-timeout` or `x-request-timeout-ms`, but at most the server's own.
fn deadline(counted: &Counted<'_>, headers: &HeaderMap) -> Result<Instant> {
    let deadline = counted.deadline(headers)?;
    let timeout = headers.get(TIMEOUT).map(grpc::timeout).transpose()?;
    Ok(timeout.map_or(deadline, |timeout: Duration| deadline.min(counted.within(timeout))))
}

impl Call {
    fn of(counted: &Counted<'_>, head: &Parts) -> Result<Self> {
        Ok(Self {
            app: Arc::clone(counted.app),
            method: target(head).1.to_owned(),
            deadline: deadline(counted, &head.headers)?,
            coding: Coding::of_grpc(&head.headers)?,
        })
    }

    /// Reads the only message of a call.
    async fn message(&self, body: Incoming) -> Result<HeldBody> {
        let mut read = body::read(&self.app, body, self.deadline).await?;
        let frame = grpc::only_frame(std::mem::take(&mut read.bytes), self.app.config.max_body)?;
        read.bytes = frame.message;
        if !frame.compressed {
            return Ok(read);
        }
        let coding = self
            .coding
            .ok_or_else(|| Error::invalid("the message is compressed, and no grpc-encoding says how"))?;
        unpack(self.app.config.max_body, coding, read).await
    }

    /// Returns the messages of a stream.
    fn messages(&self, body: Incoming) -> Messages {
        Messages::new(Arc::clone(&self.app), body, self.coding)
    }
}

/// Returns the last frame of a stream.
fn end(result: Result<()>) -> Frame<Bytes> {
    Frame::trailers(result.map_or_else(|error| grpc::trailers(&error), |()| grpc::ok()))
}
