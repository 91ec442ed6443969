//! Answers: a replica's, or the gateway's own. A replica's is read as fast as the replica gives it, so that
//! a client that takes its answer slowly holds no place there.

use crate::group::Slot;
use crate::pool::Upstream;
use bytes::Bytes;
use drisse_core::Error;
use drisse_wire::ErrorShape;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// An answer of at most this many bytes is read before it is handed on: one write instead of several, and one
/// that breaks off is still an error.
const SMALL: u64 = 64 << 10;

/// Room for longer answers whose clients have not taken them yet, of all together, in units of 1 KiB: 256 MiB.
/// Once it is full, answers are read as their clients take them.
const ROOM: usize = 256 << 10;

/// Room for answers on their way.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

/// A body on its way to a client.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Whole(Option<Bytes>),
    /// The gateway's own answer to a call of gRPC's.
    Call(Option<Bytes>, Option<HeaderMap>),
    /// A replica's, which holds its place until it has ended.
    Passed {
        body: Incoming,
        slot: Option<Slot>,
        worked: bool,
    },
    Spooled {
        pieces: UnboundedReceiver<Result<Bytes, hyper::Error>>,
        length: SizeHint,
    },
}

/// A replica's answer under way: the place it holds, and its connection. Read to the end, the connection is
/// free again; dropped before, it is closed, which tells the replica to stop.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) body: Incoming,
    pub(crate) slot: Slot,
    pub(crate) upstream: Upstream,
    pub(crate) core: usize,
    /// Whether the request was worked on: a refusal says nothing about how long that takes.
    pub(crate) worked: bool,
}

/// A piece of an answer, and the room it takes until it is sent.
struct Piece(Bytes, #[expect(dead_code, reason = "its drop gives the room back")] OwnedSemaphorePermit);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Source {
    /// The answer's body: whole where it is small, else as it comes. An error where the replica breaks off
    /// before anything was handed on.
    pub(crate) async fn read(mut self, room: &Room) -> Result<AnswerBody, hyper::Error> {
        let length = self.body.size_hint();
        if self.body.is_end_stream() {
            self.finish();
            return Ok(AnswerBody::Whole(None));
        }
        if length.exact().is_some_and(|length| length <= SMALL) {
            let whole = (&mut self.body).collect().await?.to_bytes();
            self.finish();
            return Ok(AnswerBody::Whole(Some(whole)));
        }
        let (sender, pieces) = unbounded_channel();
        tokio::spawn(self.spool(room.clone(), sender));
        Ok(AnswerBody::Spooled { pieces, length })
    }

    async fn spool(mut self, room: Room, sender: UnboundedSender<Result<Bytes, hyper::Error>>) {
        loop {
            let frame = tokio::select! {
                frame = self.body.frame() => frame,
                // The client left.
                () = sender.closed() => return,
            };
            let data = match frame {
                Some(Ok(frame)) => frame.into_data(),
                Some(Err(error)) => return drop(sender.send(Err(error))),
                None => return self.finish(),
            };
            let Ok(data) = data else { continue };
            let units = u32::try_from(data.len().div_ceil(1 << 10).min(ROOM)).unwrap_or(u32::MAX);
            let taken = tokio::select! {
                taken = Arc::clone(&room.0).acquire_many_owned(units) => taken,
                () = sender.closed() => return,
            };
            let Ok(taken) = taken else { return };
            // The client may have left just now.
            let _ = sender.send(Ok(Bytes::from_owner(Piece(data, taken))));
        }
    }

    /// The answer was read to its end.
    fn finish(self) {
        self.slot.in_flight.0.pool.put(self.core, self.upstream);
        if self.worked {
            self.slot.answered();
        }
    }
}

impl AnswerBody {
    pub(crate) fn with_trailers(message: Bytes, trailers: HeaderMap) -> Self {
        Self::Call(Some(message), Some(trailers))
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
            Self::Call(message, trailers) => {
                let message = message.take().map(Frame::data);
                Poll::Ready(message.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
            Self::Passed { body, slot, worked } => {
                let frame = Pin::new(body).poll_frame(context);
                if matches!(frame, Poll::Ready(None)) {
                    slot.take().filter(|_| *worked).into_iter().for_each(Slot::answered);
                }
                frame
            }
            Self::Spooled { pieces, .. } => {
                pieces.poll_recv(context).map(|piece| piece.map(|p| p.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Call(message, trailers) => message.is_none() && trailers.is_none(),
            Self::Passed { body, .. } => body.is_end_stream(),
            Self::Spooled { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Spooled { length, .. } => *length,
            Self::Call(..) | Self::Passed { .. } => SizeHint::default(),
        }
    }
}

/// An answer of the gateway's own.
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

/// A refusal in the shape of the protocol that was spoken. 502 where the replica broke off, which no
/// kind of error stands for.
pub(crate) fn refusal(shape: ErrorShape, error: &Error, broken: bool) -> Response<AnswerBody> {
    let status = if broken { 502 } else { drisse_wire::http_status(error.kind()) };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = own(status, "application/json", drisse_wire::error_body(shape, error));
    drisse_wire::error_headers(error, response.headers_mut());
    response
}
