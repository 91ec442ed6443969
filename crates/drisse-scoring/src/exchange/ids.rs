//! The ids by which a client and an operator identify a request.

use crate::app::App;
use crate::body::Response;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::http::request::Parts;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");

/// The longest id that is returned, in bytes: longer ids would only fill logs.
const MAX_ID: usize = 200;

/// The ids of a request, for its response.
pub(crate) struct Ids {
    request: HeaderValue,
    client: Option<HeaderValue>,
    http1: bool,
}

impl Ids {
    /// Returns the client's ids, or a new one.
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

    /// Returns the request's id, for logs.
    pub(crate) fn request(&self) -> &str {
        self.request.to_str().unwrap_or_default()
    }

    /// Adds the ids to the response. If the server is stopping, the response closes its connection (HTTP/2 has a frame
    /// for that).
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
