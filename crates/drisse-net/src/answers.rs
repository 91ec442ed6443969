//! Finds HTTP/2 responses that the client does not take. A client can hold up a response by granting no flow-control
//! window. The connection still works then, so the time limits of reading and writing do not apply.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Says after which time an idle connection is closed (RFC 2068, section 19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The lowest rate at which a client may read a response, in bytes per second (512 kbit/s).
const SLOWEST: u64 = 64 << 10;

/// The responses of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Answers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    unfinished: Mutex<Unfinished>,
    /// The header `Keep-Alive` of responses over HTTP/1.1.
    keep_alive: Option<HeaderValue>,
}

#[derive(Debug, Default)]
struct Unfinished {
    /// The number of each unfinished response, and the deadline by which the client must have read it.
    deadlines: Vec<(u64, Instant)>,
    next: u64,
}

/// A body that counts as unfinished until the connection has sent its last byte.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    body: B,
    taken: Option<Arc<Taking>>,
}

/// Bytes that are being sent. The connection drops them once they are sent.
struct Piece(Bytes, #[expect(dead_code, reason = "dropping it ends the response")] Arc<Taking>);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Keeps a response unfinished until dropped.
#[derive(Debug)]
struct Taking {
    answers: Answers,
    number: u64,
}

impl Answers {
    pub(crate) fn new(keep_alive: Option<HeaderValue>) -> Self {
        Self(Arc::new(Inner { unfinished: Mutex::default(), keep_alive }))
    }

    /// Adds the time after which an idle connection is closed to the headers of a response over HTTP/1.1.
    pub(crate) fn announce(&self, headers: &mut HeaderMap) {
        if let Some(time) = &self.0.keep_alive {
            headers.insert(KEEP_ALIVE, time.clone());
        }
    }

    /// Returns whether the deadline of a response has passed.
    pub(crate) fn are_late(&self) -> bool {
        let unfinished = self.0.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        unfinished.deadlines.iter().any(|&(_, deadline)| deadline < now)
    }

    /// Watches a response. Its deadline is `patience` from now, plus the time its bytes need at the lowest rate.
    pub(crate) fn watch<B: Body>(&self, body: B, patience: Duration) -> Watched<B> {
        let bytes = body.size_hint().upper().unwrap_or(0);
        let deadline = Instant::now() + patience + Duration::from_secs(bytes / SLOWEST);
        let mut unfinished = self.0.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.next += 1;
        let number = unfinished.next;
        unfinished.deadlines.push((number, deadline));
        Watched { body, taken: Some(Arc::new(Taking { answers: self.clone(), number })) }
    }
}

impl<B> Watched<B> {
    /// Wraps a body without watching it.
    pub(crate) fn unwatched(body: B) -> Self {
        Self { body, taken: None }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut unfinished = self.answers.0.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        unfinished.deadlines.retain(|&(number, _)| number != self.number);
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

    /// A body of one frame.
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
        let answers = Answers::new(None);
        let mut body = answers.watch(One(Some("answer".into())), Duration::ZERO);
        let Poll::Ready(Some(Ok(frame))) =
            Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("the frame is ready at once")
        };
        drop(body);
        assert!(answers.are_late(), "its bytes are still here");
        drop(frame);
        assert!(!answers.are_late());
    }
}
