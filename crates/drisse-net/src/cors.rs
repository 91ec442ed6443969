//! Web pages of the origins an operator named may score from browsers (CORS).
//!
//! Source: <https://fetch.spec.whatwg.org/#http-cors-protocol>

use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};

/// The origin a request comes from, where it is one of `allowed`; `*` there allows every one.
pub fn origin(allowed: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    if allowed.is_empty() {
        return None;
    }
    let origin = headers.get(ORIGIN)?;
    let may = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    allowed.iter().any(may).then(|| origin.clone())
}

/// The headers of the answer, a 204, to a browser that asks before it sends; it sends no key with that. `None` where
/// this is no such question.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<HeaderMap> {
    if *method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut answer = HeaderMap::new();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST"));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    Some(answer)
}

/// Lets the page read an answer.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    const EXPOSED: HeaderValue = HeaderValue::from_static(
        "inference-header-content-length, retry-after, x-request-id, x-ms-client-request-id, \
         x-ms-run-fn-exec-ms, x-ms-run-function-failed, x-ms-server-version",
    );
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}
