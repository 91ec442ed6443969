//! The ids by which a client and an operator identify a request.

use crate::app::App;
use crate::body::Response;
use drisse_core::Result;
use drisse_wire::ids::{AzureIds, CLIENT_REQUEST_ID, REQUEST_ID};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;

/// The longest id that is returned, in bytes: longer ids would only fill logs.
const MAX_ID: usize = 200;

/// The ids of a request, for its response.
pub(crate) struct Ids {
    known: Known,
    http1: bool,
}

enum Known {
    /// Those of a request on a path of Azure ML's.
    Azure(AzureIds),
    Other {
        request: HeaderValue,
        client: Option<HeaderValue>,
    },
}

impl Ids {
    /// Returns the client's ids, or a new one.
    pub(crate) fn of(head: &Parts, app: &App) -> Self {
        let plain =
            |value: &&HeaderValue| !value.is_empty() && value.len() <= MAX_ID && value.to_str().is_ok();
        let given = head.headers.get(REQUEST_ID).filter(plain).cloned();
        let request = given.unwrap_or_else(|| app.request_ids.next());
        let known = match AzureIds::has_path(head.uri.path()) {
            true => Known::Azure(AzureIds::of(&head.headers, request)),
            false => {
                Known::Other { request, client: head.headers.get(CLIENT_REQUEST_ID).filter(plain).cloned() }
            }
        };
        Self { known, http1: head.version < hyper::Version::HTTP_2 }
    }

    /// Refuses a request with an id that is longer than its protocol allows.
    pub(crate) fn check(&self) -> Result<()> {
        if let Known::Azure(ids) = &self.known { ids.check() } else { Ok(()) }
    }

    /// Returns the request's id, for logs.
    pub(crate) fn request(&self) -> &str {
        let id = match &self.known {
            Known::Azure(ids) => ids.request(),
            Known::Other { request, .. } => request,
        };
        id.to_str().unwrap_or_default()
    }

    /// Adds the ids to the response. If the server is stopping, the response closes its connection (HTTP/2 has a frame
    /// for that).
    pub(crate) fn put_on(self, mut response: Response, closing: bool) -> Response {
        let headers = response.headers_mut();
        match self.known {
            Known::Azure(ids) => ids.put_on(headers),
            Known::Other { request, client } => {
                headers.insert(REQUEST_ID, request);
                if let Some(client) = client {
                    headers.insert(CLIENT_REQUEST_ID, client);
                }
            }
        }
        if self.http1 && closing {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else if !self.http1 {
            headers.remove(CONNECTION);
        }
        response
    }
}
