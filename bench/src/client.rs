//! An in-memory connection with a client at its other end, which sends prepared requests and counts responses. Its
//! instructions are counted with the server's, so it does as little as possible.

use crate::requests::{self, Protocol};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Memory reserved for each response, in bytes.
const ANSWER: usize = 1 << 10;

/// A client that waits for each response before it sends the next request.
#[derive(Clone)]
pub(crate) struct Client(Arc<Mutex<Talk>>);

struct Talk {
    protocol: Protocol,
    /// The bytes of all requests.
    says: Vec<u8>,
    /// The range of each request in `says`.
    parts: Vec<Range<usize>>,
    /// How many bytes of the next request the server has read.
    said: usize,
    /// Requests sent so far.
    asked: usize,
    /// Responses received so far.
    answered: usize,
    /// Requests to send for now.
    wanted: usize,
    /// All bytes received.
    heard: Vec<u8>,
    /// How many of the received bytes belong to responses that are counted.
    seen: usize,
    /// Whether the server has already tried to read since its last response.
    looked: bool,
    reader: Option<Waker>,
    waiting: Option<Waker>,
}

impl Client {
    /// Makes a client with `count` requests.
    pub(crate) fn new(protocol: Protocol, count: usize) -> Self {
        let mut says = Vec::new();
        let parts = (0..count).map(|nth| {
            let start = says.len();
            requests::write(protocol, nth, &mut says);
            start..says.len()
        });
        let parts = parts.collect();
        let heard = Vec::with_capacity(count * ANSWER);
        Self(Arc::new(Mutex::new(Talk {
            protocol,
            says,
            parts,
            said: 0,
            asked: 0,
            answered: 0,
            wanted: 0,
            heard,
            seen: 0,
            looked: false,
            reader: None,
            waiting: None,
        })))
    }

    /// Sends requests until `count` in total are answered.
    pub(crate) async fn answered(&self, count: usize) {
        let reader = {
            let mut talk = self.talk();
            talk.wanted = count;
            talk.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
        let done = |context: &mut Context<'_>| {
            let mut talk = self.talk();
            if talk.answered >= count {
                return Poll::Ready(());
            }
            talk.waiting = Some(context.waker().clone());
            Poll::Pending
        };
        poll_fn(done).await;
    }

    /// Counts the occurrences of `word` in the received bytes.
    pub(crate) fn heard(&self, word: &[u8]) -> usize {
        memchr::memmem::find_iter(&self.talk().heard, word).count()
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.0.lock().expect("one thread")
    }
}

impl Talk {
    /// Counts the responses received since the last call.
    fn look(&mut self) {
        match self.protocol {
            Protocol::Grpc => {
                while let Some(head) = self.heard.get(self.seen..self.seen + requests::FRAME_HEAD) {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    self.answered += usize::from(requests::ends_answer(head[3], head[4]));
                    self.seen += requests::FRAME_HEAD + length;
                }
            }
            // The server flushes once per response.
            _ => {
                self.answered += usize::from(self.heard.len() > self.seen);
                self.seen = self.heard.len();
            }
        }
        if self.answered < self.asked {
            return;
        }
        let waker = if self.answered < self.wanted { &mut self.reader } else { &mut self.waiting };
        waker.take().into_iter().for_each(Waker::wake);
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let talk = &mut *self.talk();
        if talk.answered < talk.asked || talk.asked >= talk.wanted {
            talk.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        // After a response, the server's first read finds nothing and is woken later, as on a socket.
        if talk.said == 0 && !std::mem::replace(&mut talk.looked, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let part = &talk.says[talk.parts[talk.asked].clone()][talk.said..];
        let count = part.len().min(buffer.remaining());
        buffer.put_slice(&part[..count]);
        talk.said += count;
        if count == part.len() {
            (talk.said, talk.looked) = (0, false);
            talk.asked += 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.talk().heard.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let heard = &mut self.talk().heard;
        let before = heard.len();
        parts.iter().for_each(|part| heard.extend_from_slice(part));
        Poll::Ready(Ok(heard.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.talk().look();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
