//! The headers of forwarded requests: removes those of the client's connection, and adds those that replicas need.

use crate::state::GatewayState;
use bytes::Bytes;
use drisse_wire::ids::REQUEST_ID;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Response, Uri, Version};
use std::time::{Duration, Instant};

const DEADLINE: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// Removes the headers of the client's connection, and adds those that a replica needs.
pub(crate) fn prepare(head: &mut Parts, state: &GatewayState) {
    hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_11;
    if !head.headers.contains_key(HOST) {
        head.headers.insert(HOST, HeaderValue::from_static("drisse"));
    }
    if !head.headers.contains_key(REQUEST_ID) {
        head.headers.insert(REQUEST_ID, state.request_ids.next());
    }
}

/// Removes the headers that belong to one connection: RFC 9110, section 7.6.1.
pub(crate) fn hop_by_hop(headers: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    // There may be several `Connection` headers.
    let all: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for named in all {
        for name in named.to_str().unwrap_or_default().split(',').map(str::trim) {
            // Clients must not remove the headers that frame the message.
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

/// Returns the client's time limit; `None` if there is none or if it is malformed (the replica then refuses it).
pub(crate) fn wanted_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(DEADLINE)?.to_str().ok()?;
    text.trim().parse().ok().filter(|&ms| ms > 0).map(Duration::from_millis)
}

/// Sets the header with the time that is left until `deadline`.
pub(crate) fn set_time_left(headers: &mut HeaderMap, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
    headers.insert(DEADLINE, HeaderValue::from(left.max(1)));
}

/// Returns the id of the request that a response answers; empty if the response has none.
pub(crate) fn request_id<B>(response: &Response<B>) -> &str {
    let id = response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    id.unwrap_or_default()
}

/// Returns the target of a request at a replica; `None` if the query is malformed.
pub(crate) fn inner_uri(path: &str, query: Option<&str>) -> Option<Uri> {
    let text = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Uri::from_maybe_shared(Bytes::from(text)).ok()
}
