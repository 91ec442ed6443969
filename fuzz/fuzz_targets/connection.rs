//! A client that sends given bytes on an in-memory connection to a whole server, and checks the responses.

use drisse_net::{Handler, Limits, serve_connection};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;

/// The connection preface of an HTTP/2 client.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The least number of turns of the runtime before the client hangs up: the server needs them to read the bytes.
const TURNS: u32 = 4;

/// The greatest number of turns, for requests that wait for a model's thread or for another socket.
const PATIENCE: u32 = 64;

/// Limits that an input of a few kilobytes can exceed only by what it announces, such as a content length.
pub fn limits() -> Limits {
    let minute = Duration::from_secs(60);
    let (max_connections, max_head) = (10, 32 << 10);
    Limits {
        max_connections,
        header_timeout: minute,
        idle_timeout: minute,
        write_timeout: minute,
        max_head,
        drain_timeout: minute,
        threads: 1,
    }
}

/// The client's end of a connection: sends `said`, then waits, then hangs up.
#[derive(Clone)]
struct Client(Arc<Mutex<Talk>>);

struct Talk {
    said: Vec<u8>,
    read: usize,
    heard: Vec<u8>,
    ended: bool,
    waiting: Option<Waker>,
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut talk = self.0.lock().expect("one thread");
        let rest = &talk.said[talk.read..];
        if rest.is_empty() && !talk.ended {
            talk.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        talk.read += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().expect("one thread").heard.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Sends `said` to a server with this handler and returns what the server sent.
pub async fn talk<H: Handler<Body: Unpin>>(said: &[u8], handler: &Watched<H>) -> Vec<u8> {
    let talk = Talk { said: said.to_vec(), read: 0, heard: Vec::new(), ended: false, waiting: None };
    let client = Client(Arc::new(Mutex::new(talk)));
    let hang_up = async {
        for turn in 0..PATIENCE {
            yield_now().await;
            if turn >= TURNS && handler.counts.under_way.load(SeqCst) == 0 {
                break;
            }
        }
        let waiting = {
            let mut talk = client.0.lock().expect("one thread");
            talk.ended = true;
            talk.waiting.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    };
    tokio::join!(serve_connection(client.clone(), handler.clone(), limits()), hang_up);
    let heard = std::mem::take(&mut client.0.lock().expect("one thread").heard);
    check(said, &heard);
    heard
}

/// Waits until all requests of a client that has gone are ended; panics if one is not.
pub async fn settle(counts: &Counts) {
    for _ in 0..1000 {
        if counts.under_way.load(SeqCst) == 0 {
            return;
        }
        yield_now().await;
    }
    panic!("a request continues although its client is gone");
}

/// Counts the requests of a handler.
pub struct Counts {
    pub seen: AtomicU64,
    pub under_way: AtomicU64,
}

impl Counts {
    pub const fn new() -> Self {
        Self { seen: AtomicU64::new(0), under_way: AtomicU64::new(0) }
    }
}

/// A handler whose responses are checked.
pub struct Watched<H> {
    pub handler: H,
    pub counts: &'static Counts,
}

impl<H: Clone> Clone for Watched<H> {
    fn clone(&self) -> Self {
        Self { handler: self.handler.clone(), counts: self.counts }
    }
}

/// Counts a request as in flight until it is dropped: when its response is sent or the request is abandoned.
struct UnderWay(&'static Counts);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

impl<H: Handler<Body: Unpin>> Handler for Watched<H> {
    type Body = Counted<H::Body>;

    async fn handle(self, request: Request<Incoming>) -> Response<Self::Body> {
        self.counts.seen.fetch_add(1, SeqCst);
        self.counts.under_way.fetch_add(1, SeqCst);
        let under_way = UnderWay(self.counts);
        let id = request.headers().get("x-request-id").cloned();
        let response = self.handler.handle(request).await;
        let status = response.status().as_u16();
        // A client may cause 503 (overload) and 504 (deadline exceeded); other 5xx are bugs.
        assert!(status < 500 || status == 503 || status == 504, "{status}");
        // The response must belong to this request.
        let plain = |id: &HeaderValue| (1..=200).contains(&id.len()) && id.to_str().is_ok();
        if let (Some(asked), Some(answered)) = (id.filter(plain), response.headers().get("x-request-id")) {
            assert_eq!(asked, answered);
        }
        response.map(|body| Counted { body, _under_way: under_way })
    }
}

/// A body that keeps its request in flight until it is dropped.
pub struct Counted<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Checks that the received bytes are valid HTTP.
fn check(said: &[u8], mut heard: &[u8]) {
    if said.starts_with(PREFACE) {
        while let Some((head, rest)) = heard.split_at_checked(9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            heard = rest.get(length..).expect("a whole frame");
        }
        return assert!(heard.is_empty(), "a whole frame");
    }
    while !heard.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = head.parse(heard) else {
            panic!("not a response: {}", String::from_utf8_lossy(heard));
        };
        heard = &heard[length..];
        let header = |name: &str| head.headers.iter().find(|header| header.name == name).map(|h| h.value);
        // The servers never send chunked responses and never accept an upgrade.
        assert!(
            header("transfer-encoding").is_none() && header("upgrade").is_none() && head.code != Some(101)
        );
        let length = header("content-length").map_or(0, |length| {
            std::str::from_utf8(length).ok().and_then(|length| length.parse().ok()).expect("a length")
        });
        // The response to a HEAD has the content length of a GET, but no body.
        if length == 0 || heard.is_empty() || heard.starts_with(b"HTTP/1.") {
            continue;
        }
        let (body, rest) = heard.split_at_checked(length).expect("a whole body");
        if header("content-type") == Some(b"application/json") {
            serde_json::from_slice::<serde::de::IgnoredAny>(body).expect("JSON");
        }
        heard = rest;
    }
}
