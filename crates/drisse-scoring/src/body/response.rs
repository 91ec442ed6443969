//! The bodies of responses: complete, with gRPC's trailers, or as a stream.

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A response with a body of this crate.
pub(crate) type Response = hyper::Response<ResponseBody>;

/// The body of a response.
pub(crate) enum ResponseBody {
    /// A complete body.
    Whole { data: Bytes, trailers: Option<HeaderMap> },
    /// A stream, which is polled only as fast as the client reads.
    Stream(Pin<Box<dyn Stream<Item = Frame<Bytes>> + Send>>),
}

impl ResponseBody {
    /// Creates a complete body without trailers.
    pub(crate) fn whole(data: Bytes) -> Self {
        Self::Whole { data, trailers: None }
    }

    pub(crate) fn with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        Self::Whole { data, trailers: Some(trailers) }
    }

    pub(crate) fn stream(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Self {
        Self::Stream(Box::pin(frames))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole { data, .. } if !data.is_empty() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(data)))))
            }
            Self::Whole { trailers, .. } => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Self::Stream(frames) => frames.as_mut().poll_next(context).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole { data, trailers: None } if data.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { data, .. } => SizeHint::with_exact(data.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
