//! gRPC on the scoring port: parse, call what HTTP calls, frame.
//!
//! Frames and statuses are our own (`drisse_wire::grpc`) and not a library's: bodies are read as every other body is,
//! counted against the server's memory, and unpacked where no connection waits for it.

mod health;
mod inference;
mod messages;
mod reflection;
mod repository;
mod tensorflow;

use crate::app::App;
use crate::http::answer_body::AnswerBody;
use crate::http::body;
use crate::http::coding::{Coding, GRPC_ACCEPT_ENCODING, GRPC_ENCODING, pack, unpack};
use crate::http::reply::{Ids, Response};
use crate::traced::Traced;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use drisse_net::trace::Stages;
use drisse_wire::grpc;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use messages::Messages;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What a request needs besides its messages.
struct Call {
    app: Arc<App>,
    method: String,
    started: Instant,
    deadline: Instant,
    /// How its messages are compressed.
    coding: Option<Coding>,
    /// Where the parts of its time are noted, where it is traced.
    stages: Option<Arc<Stages>>,
}

/// What answers a call.
enum Answer {
    /// One message.
    One(Bytes),
    /// Several, and then the trailers.
    Stream(AnswerBody),
}

pub(crate) async fn handle(
    app: &Arc<App>,
    head: &Parts,
    body: Incoming,
    ids: Ids,
    started: Instant,
    traced: Option<Traced>,
) -> Response {
    let result = answer(app, head, body, started).await;
    if let Some(traced) = traced {
        let error = result.as_ref().err();
        let status = error.map_or(200, |error| drisse_wire::http_status(error.kind()));
        traced.end(head.uri.path().trim_start_matches('/'), &ids, None, status, error);
    }
    conclude(app, head, result, ids, started).await
}

/// What an operator may call, on the admin listener: the model repository, and health checks.
pub(crate) async fn handle_operator(
    app: &Arc<App>,
    head: &Parts,
    body: Incoming,
    allowed: Result<()>,
) -> Response {
    let started = Instant::now();
    let result = match allowed {
        Ok(()) => operate(app, head, body, started).await,
        Err(error) => Err(error),
    };
    conclude(app, head, result, Ids::of(head, app), started).await
}

async fn operate(app: &Arc<App>, head: &Parts, body: Incoming, started: Instant) -> Result<Answer> {
    let call = call_of(app, head, started)?;
    match target(head).0 {
        inference::SERVICE => {
            let read = call.message(body).await?;
            let answer = repository::answer(app, &call.method, read.bytes.clone()).await?;
            Ok(Answer::One(app.hold_answer(answer)?))
        }
        health::SERVICE => health::answer(call, body).await,
        other => Err(unknown(other)),
    }
}

/// The response that tells how a call ended.
async fn conclude(app: &App, head: &Parts, result: Result<Answer>, ids: Ids, started: Instant) -> Response {
    let coding = Coding::of_grpc(&head.headers).ok().flatten();
    let result = match result {
        Ok(Answer::One(message)) => {
            one(coding.filter(|coding| coding.is_read_by(&head.headers)), message).await
        }
        Ok(Answer::Stream(body)) => Ok(respond(body)),
        Err(error) => Err(error),
    };
    let status = result.as_ref().map_or_else(|error| drisse_wire::http_status(error.kind()), |_| 200);
    crate::http::note(app, head, status, &ids, started.elapsed(), None);
    let response = result.unwrap_or_else(|error| {
        crate::http::log(&head.method, status, &ids, started.elapsed(), None, Some(&error));
        let mut response = respond(AnswerBody::whole(Bytes::new()));
        response.headers_mut().extend(grpc::trailers(&error));
        response
    });
    ids.put_on(response, app.is_draining())
}

/// A response with one message; compressed as the request was.
async fn one(coding: Option<Coding>, message: Bytes) -> Result<Response> {
    let packed = match coding {
        Some(coding) => pack(coding, message.slice(grpc::HEAD..)).await?.map(|packed| (coding, packed)),
        None => None,
    };
    let Some((coding, packed)) = packed else {
        return Ok(respond(AnswerBody::with_trailers(message, grpc::ok())));
    };
    let mut response = respond(AnswerBody::with_trailers(grpc::packed_frame(&packed), grpc::ok()));
    response.headers_mut().insert(GRPC_ENCODING, coding.name());
    Ok(response)
}

fn respond(body: AnswerBody) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,deflate,gzip"));
    response
}

async fn answer(app: &Arc<App>, head: &Parts, body: Incoming, started: Instant) -> Result<Answer> {
    let (service, method) = target(head);
    let is_open = service == health::SERVICE
        || service == inference::SERVICE && matches!(method, "ServerLive" | "ServerReady" | "ModelReady");
    if !is_open {
        crate::http::authorize(app, &head.headers)?;
    }
    let call = call_of(app, head, started)?;
    match service {
        inference::SERVICE => inference::answer(call, body).await,
        health::SERVICE => health::answer(call, body).await,
        grpc::PREDICTION | grpc::MODELS => tensorflow::answer(service, call, body).await,
        reflection::SERVICE | reflection::SERVICE_ALPHA => reflection::answer(call, body),
        _ => Err(unknown(&format!("{service}/{method}"))),
    }
}

/// The service and the method that a call's path names.
fn target(head: &Parts) -> (&str, &str) {
    let path = head.uri.path().strip_prefix('/').unwrap_or_default();
    path.split_once('/').unwrap_or((path, ""))
}

fn call_of(app: &Arc<App>, head: &Parts, started: Instant) -> Result<Call> {
    Ok(Call {
        app: Arc::clone(app),
        method: target(head).1.to_owned(),
        started,
        deadline: deadline(app, &head.headers, started)?,
        coding: Coding::of_grpc(&head.headers)?,
        stages: head.extensions.get().cloned(),
    })
}

fn unknown(path: &str) -> Error {
    let shown = &path[..path.floor_char_boundary(80)];
    Error::new(
        ErrorKind::MethodNotAllowed,
        format!("there is no method `{shown}`: reflection lists those there are"),
    )
}

/// The client's `grpc-timeout` or `x-request-timeout-ms`, at most the server's own.
fn deadline(app: &App, headers: &HeaderMap, started: Instant) -> Result<Instant> {
    let deadline = crate::http::deadline(app, headers, started)?;
    let wanted = headers.get(TIMEOUT).map(grpc::timeout).transpose()?;
    Ok(wanted.map_or(deadline, |wanted| deadline.min(started + wanted.min(Duration::from_secs(1 << 30)))))
}

impl Call {
    /// The only message of a call, and what it holds of the server's memory until dropped.
    async fn message(&self, body: Incoming) -> Result<body::Read> {
        let mut read = body::read(&self.app, body, self.deadline).await?;
        let frame = grpc::only_frame(std::mem::take(&mut read.bytes), self.app.config.max_body)?;
        read.bytes = frame.message;
        if !frame.compressed {
            return Ok(read);
        }
        let coding = self
            .coding
            .ok_or_else(|| Error::invalid("the message is compressed, and no grpc-encoding says how"))?;
        unpack(&self.app, coding, read).await
    }

    /// The messages of a stream.
    fn messages(&self, body: Incoming) -> Messages {
        Messages::new(Arc::clone(&self.app), body, self.coding)
    }
}

/// The last frame of a stream.
fn end(result: Result<()>) -> Frame<Bytes> {
    Frame::trailers(result.map_or_else(|error| grpc::trailers(&error), |()| grpc::ok()))
}
