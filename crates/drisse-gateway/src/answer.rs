//! The bodies of answers: those of replicas and the gateway's own. The answer of a replica is read as fast as the
//! replica sends it, so that a client that reads slowly does not hold a permit.

use crate::pool::PooledConnection;
use crate::replica_group::Permit;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// An answer of at most this many bytes is read completely before it is passed on. This takes one write instead of
/// several, and if the replica breaks off, the client gets an error.
const SMALL: u64 = 64 << 10;

/// The memory for the parts of all longer answers that their clients have not read yet, in units of 1 KiB: 256 MiB.
/// While it is full, answers are read only as fast as their clients read them.
const BUDGET: usize = 256 << 10;

/// Bounds the memory of answers that are being sent.
#[derive(Clone, Debug)]
pub(crate) struct AnswerBudget(Arc<Semaphore>);

/// The body of an answer to a client.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Whole(Option<Bytes>),
    /// The gateway's own answer to a gRPC call.
    Message(Option<Bytes>, Option<HeaderMap>),
    /// The answer of a replica to a gRPC call. It holds its permit until it ends.
    Streamed {
        body: Incoming,
        permit: Option<Permit>,
        worked: bool,
    },
    /// The answer of a replica that the task `reading` reads ahead.
    ReadAhead {
        pieces: UnboundedReceiver<Result<Bytes, hyper::Error>>,
        length: SizeHint,
        #[expect(dead_code, reason = "its drop ends the task")]
        reading: ReadingTask,
    },
}

/// The task that reads an answer. It is aborted when the body is dropped: when the client has received it, or has left.
#[derive(Debug)]
pub(crate) struct ReadingTask(JoinHandle<()>);

/// The permit and the connection of an answer. If they are dropped before the answer has ended, the connection is
/// closed, which makes the replica stop.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) permit: Permit,
    pub(crate) connection: PooledConnection,
    pub(crate) core: usize,
    /// Whether the replica worked on the request. The time of a refusal does not count as the time of a request.
    pub(crate) worked: bool,
}

/// A piece of an answer, which holds its part of the budget until it is sent.
struct Piece(Bytes, #[expect(dead_code, reason = "its drop releases the budget")] OwnedSemaphorePermit);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Default for AnswerBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET)))
    }
}

impl AnswerBudget {
    /// Waits until the budget has memory for `data`.
    async fn take(&self, data: Bytes) -> Option<Bytes> {
        let units = u32::try_from(data.len().div_ceil(1 << 10).min(BUDGET)).unwrap_or(u32::MAX);
        let taken = Arc::clone(&self.0).acquire_many_owned(units).await.ok()?;
        Some(Bytes::from_owner(Piece(data, taken)))
    }
}

impl Drop for ReadingTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the body of a replica's answer: read completely if it is small, else read ahead by a task.
///
/// # Errors
/// Returns an error if the replica breaks off in a small answer.
pub(crate) async fn read(
    mut body: Incoming,
    lease: Lease,
    budget: &AnswerBudget,
) -> Result<AnswerBody, hyper::Error> {
    let length = body.size_hint();
    if body.is_end_stream() {
        lease.finish();
        return Ok(AnswerBody::Whole(None));
    }
    if length.exact().is_some_and(|length| length <= SMALL) {
        let whole = (&mut body).collect().await?.to_bytes();
        lease.finish();
        return Ok(AnswerBody::Whole(Some(whole)));
    }
    let (sender, pieces) = unbounded_channel();
    #[expect(clippy::disallowed_methods, reason = "the answer owns the task, and aborts it")]
    let reading = ReadingTask(tokio::spawn(read_ahead(body, lease, budget.clone(), sender)));
    Ok(AnswerBody::ReadAhead { pieces, length, reading })
}

async fn read_ahead(
    mut body: Incoming,
    lease: Lease,
    budget: AnswerBudget,
    pieces: UnboundedSender<Result<Bytes, hyper::Error>>,
) {
    let mut lease = Some(lease);
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data(),
            Err(error) => return drop(pieces.send(Err(error))),
        };
        let Ok(data) = data else { continue };
        // If the length is known, this task is aborted when the client has the last piece: the lease ends before that.
        if body.is_end_stream() {
            lease.take().into_iter().for_each(Lease::finish);
        }
        let Some(piece) = budget.take(data).await else { return };
        if pieces.send(Ok(piece)).is_err() {
            return;
        }
    }
    lease.into_iter().for_each(Lease::finish);
}

impl Lease {
    /// Releases the connection and the permit after the answer was read completely.
    fn finish(self) {
        self.permit.replica().pool.put(self.core, self.connection);
        if self.worked {
            self.permit.answered();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Message(message, trailers) => {
                let message = message.take().map(Frame::data);
                Poll::Ready(message.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Streamed { body, permit, worked } => {
                let frame = Pin::new(body).poll_frame(context);
                if matches!(frame, Poll::Ready(None)) {
                    permit.take().filter(|_| *worked).into_iter().for_each(Permit::answered);
                }
                frame
            }
            Self::ReadAhead { pieces, .. } => {
                pieces.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Message(message, trailers) => message.is_none() && trailers.is_none(),
            Self::Streamed { body, .. } => body.is_end_stream(),
            Self::ReadAhead { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::ReadAhead { length, .. } => *length,
            Self::Message(..) | Self::Streamed { .. } => SizeHint::default(),
        }
    }
}

/// Creates an answer of the gateway itself to an HTTP request.
pub(crate) fn own(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Whole(Some(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Creates an answer of the gateway itself to a gRPC call.
pub(crate) fn grpc_answer(body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
