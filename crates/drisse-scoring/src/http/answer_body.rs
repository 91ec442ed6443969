//! The bodies of answers: whole, with gRPC's trailers behind, or as they come.

use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::HeaderMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body of an answer.
pub(crate) enum AnswerBody {
    /// All of it is here.
    Whole { data: Bytes, trailers: Option<HeaderMap> },
    /// What is asked for next is made next; dropped, it is made no more.
    Stream(Pin<Box<dyn Stream<Item = Frame<Bytes>> + Send>>),
}

impl AnswerBody {
    /// Bytes and nothing behind them.
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

impl Body for AnswerBody {
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
