//! Cross-origin requests (CORS): web pages of the origins that an operator allows may score from browsers.
//!
//! Source: <https://fetch.spec.whatwg.org/#http-cors-protocol>

use hyper::Method;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};

/// Returns the origin of a request if it is one of `allowed`, in which `*` allows every origin.
///
/// ```
/// use hyper::header::{HeaderMap, HeaderValue, ORIGIN};
///
/// let headers = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static("https://app.example"))]);
/// let allowed = ["https://app.example".to_owned()];
/// assert!(drisse_net::cors::origin(&allowed, &headers).is_some());
/// assert!(drisse_net::cors::origin(&[], &headers).is_none());
/// ```
pub fn origin(allowed: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    if allowed.is_empty() {
        return None;
    }
    let origin = headers.get(ORIGIN)?;
    let may = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    allowed.iter().any(may).then(|| origin.clone())
}

/// Returns the headers of the response (status 204) to a CORS preflight request, which carries no key. `None` if the
/// request is not a preflight request.
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

/// Adds the headers to a response that let a page of `origin` read it.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    const EXPOSED: HeaderValue = HeaderValue::from_static(
        "inference-header-content-length, retry-after, x-request-id, x-ms-request-id, x-ms-client-request-id, traceid, \
         x-ms-run-fn-exec-ms, x-ms-run-function-failed, x-ms-server-version",
    );
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}
