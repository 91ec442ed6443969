//! Web pages of the origins an operator named may score from browsers (CORS).
//!
//! Source: <https://fetch.spec.whatwg.org/#http-cors-protocol>

use super::reply::{Reply, Response};
use crate::app::App;
use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;

/// The origin a request comes from, where it is one of those that may.
pub(super) fn origin(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    let allowed = &app.config.cors_origins;
    if allowed.is_empty() {
        return None;
    }
    let origin = headers.get(ORIGIN)?;
    let may = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    allowed.iter().any(may).then(|| origin.clone())
}

/// The answer to a browser that asks before it sends; it sends no key with that.
pub(super) fn preflight(head: &Parts) -> Option<Reply> {
    if head.method != Method::OPTIONS || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut reply = Reply::empty(204)
        .header(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"))
        .header(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(asked) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        reply = reply.header(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    Some(reply)
}

/// Lets the page read an answer.
pub(super) fn allow(response: &mut Response, origin: HeaderValue) {
    const EXPOSED: HeaderValue = HeaderValue::from_static(
        "inference-header-content-length, retry-after, x-request-id, x-ms-client-request-id, \
         x-ms-run-fn-exec-ms, x-ms-run-function-failed, x-ms-server-version",
    );
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}
