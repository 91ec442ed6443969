//! Answers: a status, a body, and the headers every answer has.

use super::answer_body::AnswerBody;
use super::coding::{Coding, WORTH_IT, pack};
use crate::app::App;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::ErrorShape;
use hyper::StatusCode;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY,
};
use hyper::http::request::Parts;

pub(crate) type Response = hyper::Response<AnswerBody>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");

/// A longer id is not repeated; it would only be there to fill logs.
const MAX_ID: usize = 200;

/// A successful answer.
pub(crate) struct Reply {
    pub(super) status: u16,
    content_type: Option<HeaderValue>,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, content_type: None, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self { content_type: Some(TEXT), body: text.into(), ..Self::empty(200) }
    }

    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(JSON), body: body.into(), ..Self::empty(200) }
    }

    /// JSON and tensors in binary.
    pub(super) fn bytes(body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(BYTES), body: body.into(), ..Self::empty(200) }
    }

    /// The same with one more header.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Whether its body is long enough for [`Self::packed`] to make it shorter.
    pub(super) fn is_worth_packing(&self) -> bool {
        self.body.len() >= WORTH_IT
    }

    /// The same, compressed where that is worth it.
    pub(super) async fn packed(self, coding: Coding) -> Result<Self> {
        let Some(body) = pack(coding, self.body.clone()).await? else { return Ok(self) };
        let vary = HeaderValue::from_static("accept-encoding");
        Ok(Self { body, ..self }.header(CONTENT_ENCODING, coding.name()).header(VARY, vary))
    }

    /// The same with another media type.
    pub(crate) fn of_type(self, content_type: &'static str) -> Self {
        Self { content_type: Some(HeaderValue::from_static(content_type)), ..self }
    }

    /// The same, its body counted as held until it is gone.
    pub(crate) fn held(self, app: &App) -> Result<Self> {
        Ok(Self { body: app.hold_answer(self.body)?, ..self })
    }

    pub(crate) fn into_response(self) -> Response {
        let mut response = Response::new(AnswerBody::whole(self.body));
        *response.status_mut() = status(self.status);
        *response.headers_mut() = self.headers;
        if let Some(content_type) = self.content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        response
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An error in its protocol's shape, with the headers its kind calls for.
pub(crate) fn error(shape: ErrorShape, error: &Error) -> Response {
    let body = drisse_wire::error_body(shape, error);
    let mut response =
        Reply { status: drisse_wire::http_status(error.kind()), ..Reply::json(body) }.into_response();
    let headers = response.headers_mut();
    drisse_wire::error_headers(error, headers);
    // What is left of the body is not worth reading.
    if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::RequestTimeout) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A 405 says which methods there are (RFC 9110, section 15.5.6).
pub(crate) fn allow(mut response: Response, methods: &'static str) -> Response {
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}

/// The ids by which a client and an operator find the same request again.
pub(crate) struct Ids {
    request: HeaderValue,
    client: Option<HeaderValue>,
    http1: bool,
}

impl Ids {
    /// The client's ids, or one of the server's making.
    pub(crate) fn of(head: &Parts, app: &App) -> Self {
        let plain = |value: &&HeaderValue| value.len() <= MAX_ID && value.to_str().is_ok();
        let given = head.headers.get(REQUEST_ID).filter(plain).cloned();
        let made = || HeaderValue::from_maybe_shared(app.next_request_id()).expect("hexadecimal digits");
        Self {
            request: given.unwrap_or_else(made),
            client: head.headers.get(CLIENT_REQUEST_ID).filter(plain).cloned(),
            http1: head.version < hyper::Version::HTTP_2,
        }
    }

    /// The request's id, for logs.
    pub(crate) fn request(&self) -> &str {
        self.request.to_str().unwrap_or_default()
    }

    /// The answer with the ids; one of a server that stops closes its connection (HTTP/2 says so itself).
    pub(crate) fn put_on(self, mut response: Response, closing: bool) -> Response {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.request);
        if let Some(client) = self.client {
            headers.insert(CLIENT_REQUEST_ID, client);
        }
        if self.http1 && closing {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else if !self.http1 {
            headers.remove(CONNECTION);
        }
        response
    }
}
