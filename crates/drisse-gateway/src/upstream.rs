//! The two kinds of connection that a request is sent over.

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

/// In the head of a gRPC answer that is only an error.
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const UNAVAILABLE: &str = "14";

/// A connection to a replica.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// HTTP/1.1, for this request alone until its answer has ended.
    Http1(PooledConnection),
    /// HTTP/2, shared with the other calls of this core.
    Http2(http2::SendRequest<Upload>),
}

impl Upstream {
    /// An open connection of this core, or a new one.
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

    /// The request once more, if a reset of this connection would prove that it was not read whole, and if its body is
    /// in memory. On a shared connection the bytes that were not read may be those of another call.
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

    /// Whether the connection has been idle: then its end may have gone unnoticed, which says nothing about the
    /// replica.
    pub(crate) fn was_idle(&self) -> bool {
        matches!(self, Self::Http1(PooledConnection { used: true, .. }))
    }

    /// The answer for the client. `permit` is released once the replica has sent all of it.
    pub(crate) async fn pass_on(
        self,
        response: Response<Incoming>,
        permit: Permit,
        core: usize,
        budget: &AnswerBudget,
    ) -> hyper::Result<Response<AnswerBody>> {
        let (mut head, body) = response.into_parts();
        hop_by_hop(&mut head.headers);
        // A refusal says nothing about how long requests take: `worked` is false.
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
