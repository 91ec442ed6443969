//! Replies: a status, a body and headers.

use crate::app::App;
use crate::body::coding::{Coding, WORTH_IT, pack};
use crate::body::{Response, ResponseBody};
use crate::metrics::ModelMetrics;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::ErrorShape;
use drisse_wire::score::Ignored;
use hyper::StatusCode;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A successful response.
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

    /// Creates a reply of JSON and tensors in binary.
    pub(super) fn bytes(body: impl Into<Bytes>) -> Self {
        Self { content_type: Some(BYTES), body: body.into(), ..Self::empty(200) }
    }

    /// Adds a header.
    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Names the columns that were ignored, and counts them.
    pub(super) fn without_columns(self, ignored: &Ignored, metrics: &ModelMetrics) -> Self {
        const COLUMNS: HeaderName = HeaderName::from_static("x-drisse-ignored-columns");
        if ignored.is_empty() {
            return self;
        }
        metrics.ignored_columns.inc_by(ignored.len() as u64);
        match HeaderValue::try_from(ignored.header()) {
            Ok(names) => self.header(COLUMNS, names),
            Err(_) => self,
        }
    }

    /// Compresses the body as the client prefers.
    pub(super) async fn packed(self, headers: &HeaderMap) -> Result<Self> {
        // The header is parsed last: few replies are long enough.
        let is_worth_it = self.body.len() >= WORTH_IT;
        let Some(coding) = is_worth_it.then(|| Coding::accepted(headers)).flatten() else { return Ok(self) };
        let Some(body) = pack(coding, self.body.clone()).await? else { return Ok(self) };
        let vary = HeaderValue::from_static("accept-encoding");
        Ok(Self { body, ..self }.header(CONTENT_ENCODING, coding.name()).header(VARY, vary))
    }

    /// Sets another media type.
    pub(crate) fn of_type(self, content_type: &'static str) -> Self {
        Self { content_type: Some(HeaderValue::from_static(content_type)), ..self }
    }

    /// Counts the body's memory until it is sent.
    pub(crate) fn held(self, app: &App) -> Result<Self> {
        Ok(Self { body: app.memory.hold_response(self.body)?, ..self })
    }

    pub(crate) fn into_response(self) -> Response {
        let mut response = Response::new(ResponseBody::whole(self.body));
        let status = StatusCode::from_u16(self.status);
        *response.status_mut() = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        *response.headers_mut() = self.headers;
        if let Some(content_type) = self.content_type {
            response.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        response
    }
}

/// Creates the response of an error, in its protocol's shape and with the headers of its kind.
pub(crate) fn error(shape: ErrorShape, error: &Error) -> Response {
    let body = drisse_wire::error_body(shape, error);
    let mut response =
        Reply { status: drisse_wire::http_status(error.kind()), ..Reply::json(body) }.into_response();
    let headers = response.headers_mut();
    drisse_wire::error_headers(error, headers);
    // The rest of the body is not read.
    if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::RequestTimeout) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Adds the allowed methods to a 405 (RFC 9110, section 15.5.6).
pub(crate) fn allow(mut response: Response, methods: &'static str) -> Response {
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}
