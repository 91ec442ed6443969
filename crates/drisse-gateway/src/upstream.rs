//! The connections over which requests are sent: HTTP/1.1 and HTTP/2.

use crate::answer::{AnswerBody, AnswerBudget, Lease, read};
use crate::endpoint::HttpVersion;
use crate::forwarding::hop_by_hop;
use crate::pool::PooledConnection;
use crate::replica::Replica;
use crate::replica_group::Permit;
use crate::upload::Upload;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use tokio_util::either::Either;

/// The status in the head of a gRPC answer that has no messages.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const UNAVAILABLE: &str = "14";

/// A connection to a replica.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// HTTP/1.1: used by this request alone until its answer has ended.
    Http1(PooledConnection),
    /// HTTP/2: shared with the other calls of this core.
    Http2(http2::SendRequest<Upload>),
}

impl Upstream {
    /// Returns an open connection of this core, or opens one.
    pub(crate) async fn connect(
        replica: &Replica,
        version: HttpVersion,
        core: usize,
    ) -> std::io::Result<Self> {
        match version {
            HttpVersion::Http1 => replica.pool.http1(core).await.map(Self::Http1),
            HttpVersion::Http2 => replica.pool.http2(core).await.map(Self::Http2),
        }
    }

    /// Returns a copy of the request to send again if the connection is reset. `None` if its body is not in memory, or
    /// if the connection is shared: then the unread bytes that caused the reset may belong to another call.
    pub(crate) fn copy_to_retain(&self, head: &Parts, body: &Upload) -> Option<Request<Upload>> {
        if matches!(self, Self::Http2(_)) {
            return None;
        }
        let mut copy = Request::new(body.again()?);
        *copy.method_mut() = head.method.clone();
        *copy.uri_mut() = head.uri.clone();
        *copy.headers_mut() = head.headers.clone();
        Some(copy)
    }

    pub(crate) fn try_send(
        &mut self,
        request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> + use<> {
        match self {
            Self::Http1(connection) => Either::Left(connection.sender.try_send_request(request)),
            Self::Http2(sender) => Either::Right(sender.try_send_request(request)),
        }
    }

    /// Returns whether the connection was idle before. The replica may have closed it then, so an error on it does not
    /// mean that the replica has failed.
    pub(crate) fn was_idle(&self) -> bool {
        matches!(self, Self::Http1(PooledConnection { used: true, .. }))
    }

    /// Returns the answer for the client. `permit` is released when the replica has sent all of the answer.
    pub(crate) async fn pass_on(
        self,
        response: Response<Incoming>,
        permit: Permit,
        core: usize,
        budget: &AnswerBudget,
    ) -> hyper::Result<Response<AnswerBody>> {
        let (mut head, body) = response.into_parts();
        hop_by_hop(&mut head.headers);
        // The time of a refusal must not count as the time of a request: `worked` is false.
        let body = match self {
            Self::Http1(connection) => {
                head.version = Version::HTTP_11;
                let worked = head.status != StatusCode::SERVICE_UNAVAILABLE;
                let lease = Lease { permit, connection, core, worked };
                read(body, lease, budget).await?
            }
            Self::Http2(_) => {
                let worked = head.headers.get(STATUS).is_none_or(|status| status != UNAVAILABLE);
                AnswerBody::Streamed { body, permit: Some(permit), worked }
            }
        };
        Ok(Response::from_parts(head, body))
    }
}
