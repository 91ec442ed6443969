//! One end of a connection, and the client there: it says what was made before and counts answers. What it does is
//! counted with the server, so it does little.

use crate::requests::{self, Protocol};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room for an answer.
const ANSWER: usize = 1 << 10;

/// A client that waits for each answer before it sends its next request.
#[derive(Clone)]
pub(crate) struct Client(Arc<Mutex<Talk>>);

struct Talk {
    protocol: Protocol,
    /// All there is to say, and the part of each request.
    says: Vec<u8>,
    parts: Vec<Range<usize>>,
    /// What of the next request is said already.
    said: usize,
    asked: usize,
    answered: usize,
    /// Requests to ask for now.
    wanted: usize,
    heard: Vec<u8>,
    /// What of that is in answers that were counted.
    seen: usize,
    /// Whether the server has found once that there is nothing to read.
    looked: bool,
    reader: Option<Waker>,
    waiting: Option<Waker>,
}

impl Client {
    /// A client with so many requests to make.
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

    /// Goes on until so many requests are answered.
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

    /// How often a word was in what the server said.
    pub(crate) fn heard(&self, word: &[u8]) -> usize {
        memchr::memmem::find_iter(&self.talk().heard, word).count()
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.0.lock().expect("one thread")
    }
}

impl Talk {
    /// Counts the answers in what came since the last time.
    fn look(&mut self) {
        match self.protocol {
            Protocol::Grpc => {
                while let Some(head) = self.heard.get(self.seen..self.seen + requests::FRAME_HEAD) {
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    self.answered += usize::from(requests::ends_answer(head[3], head[4]));
                    self.seen += requests::FRAME_HEAD + length;
                }
            }
            // An answer is flushed once.
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
        // A server that has just answered finds nothing, as on a socket, and is told when there is something.
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
