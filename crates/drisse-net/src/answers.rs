//! Answers on their way over HTTP/2. A client may keep an answer waiting by giving it no window: the
//! connection is not stuck then, so no limit on reading or writing sees it. Here it is seen.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The slowest client that is waited for, in bytes a second: 512 kbit/s.
const SLOWEST: u64 = 64 << 10;

/// The answers of one connection that its client has not taken whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(Arc<Mutex<Under>>);

#[derive(Debug, Default)]
struct Under {
    /// By when each must have been taken.
    until: Vec<(u64, Instant)>,
    next: u64,
}

/// A body whose bytes are watched until the last of them is gone.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    body: B,
    taken: Option<Arc<Taking>>,
}

/// Bytes under way; dropped once the connection has let go of them.
struct Piece(Bytes, #[expect(dead_code, reason = "its drop says that the bytes are gone")] Arc<Taking>);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// An answer under way, until dropped.
#[derive(Debug)]
struct Taking {
    answers: Answers,
    number: u64,
}

impl Answers {
    /// Whether an answer should have been taken by now.
    pub(crate) fn are_late(&self) -> bool {
        let under = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        under.until.iter().any(|&(_, until)| until < now)
    }

    /// Watches an answer, which is to be taken within `patience` and the time its bytes need.
    pub(crate) fn watch<B: Body>(&self, body: B, patience: Duration) -> Watched<B> {
        let bytes = body.size_hint().upper().unwrap_or(0);
        let until = Instant::now() + patience + Duration::from_secs(bytes / SLOWEST);
        let mut under = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        under.next += 1;
        let number = under.next;
        under.until.push((number, until));
        Watched { body, taken: Some(Arc::new(Taking { answers: self.clone(), number })) }
    }
}

impl<B> Watched<B> {
    /// The same body, of an answer that needs no watching.
    pub(crate) fn unwatched(body: B) -> Self {
        Self { body, taken: None }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut under = self.answers.0.lock().unwrap_or_else(PoisonError::into_inner);
        under.until.retain(|&(number, _)| number != self.number);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        let Some(taken) = &this.taken else { return frame };
        frame.map_ok(|frame| frame.map_data(|data| Bytes::from_owner(Piece(data, Arc::clone(taken)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// A body of one piece.
    struct One(Option<Bytes>);

    impl Body for One {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.get_mut().0.take().map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    #[test]
    fn an_answer_is_late_until_its_last_byte_is_gone() {
        let answers = Answers::default();
        let mut body = answers.watch(One(Some("answer".into())), Duration::ZERO);
        let Poll::Ready(Some(Ok(frame))) =
            Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("it is there at once")
        };
        drop(body);
        assert!(answers.are_late(), "its bytes are still here");
        drop(frame);
        assert!(!answers.are_late());
    }
}
