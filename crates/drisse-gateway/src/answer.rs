//! Answers: a replica's, streamed through, or the gateway's own.

use crate::pool::Upstream;
use crate::service::Slot;
use bytes::Bytes;
use drisse_core::Error;
use drisse_wire::ErrorShape;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body on its way to a client.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Own(Option<Bytes>),
    Streamed(Box<Streamed>),
}

/// A replica's body. Holds the request's place at the replica and its connection: read to the end, the
/// connection is free again; dropped before, it is closed, which tells the replica to stop.
#[derive(Debug)]
pub(crate) struct Streamed {
    body: Incoming,
    held: Option<(Slot, Upstream)>,
    core: usize,
}

impl Streamed {
    pub(crate) fn new(body: Incoming, slot: Slot, upstream: Upstream, core: usize) -> Self {
        let mut streamed = Self { body, held: Some((slot, upstream)), core };
        if streamed.body.is_end_stream() {
            streamed.release();
        }
        streamed
    }

    fn release(&mut self) {
        if let Some((slot, upstream)) = self.held.take() {
            slot.in_flight.0.pool.put(self.core, upstream);
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
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(streamed) => {
                let frame = Pin::new(&mut streamed.body).poll_frame(context);
                if matches!(frame, Poll::Ready(None)) || streamed.body.is_end_stream() {
                    streamed.release();
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}

/// An answer of the gateway's own.
pub(crate) fn own(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Own(Some(body.into())));
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
