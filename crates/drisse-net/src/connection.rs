//! One connection from its first byte to its last: TLS, HTTP/1.1 or HTTP/2, time limits, drain.

use crate::answers::{Answers, Watched};
use crate::request::ambiguous;
use crate::tls::Tls;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::{Either, Empty};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::gauge::Gauge;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_io_timeout::TimeoutWriter;

/// Requests one HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 256;

/// Where three quarters of the connections are taken, one that has said nothing for this long makes room.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a body HTTP/2 lets a client send before it is read.
const WINDOW: u32 = 1 << 20;

/// An accepted stream on its way to the runtime that serves it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// What answers requests. One per core; a clone per request.
pub trait Handler: Clone + Send + 'static {
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + Unpin + 'static;

    /// Answers one request. Dropped when its client leaves.
    fn handle(self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// What a connection may do.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections; further ones are closed at once.
    pub max_connections: usize,
    /// A connection that has sent no whole request head by then is closed; also how long a
    /// kept-alive connection may be idle.
    pub header_timeout: Duration,
    /// A client that takes nothing of its answer for this long is cut off.
    pub write_timeout: Duration,
    /// Bytes of a request's head.
    pub max_head: usize,
    /// How long requests under way may take after the server was told to stop.
    pub drain_timeout: Duration,
    /// Threads that serve connections.
    pub threads: usize,
}

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) limits: Limits,
    tls: Option<Arc<Tls>>,
    open: Gauge,
    http: auto::Builder<TokioExecutor>,
    stop: watch::Receiver<bool>,
}

/// Serves one connection that is open already, whatever carries it, until it ends. For fuzzing: no socket
/// and no runtime of its own.
#[doc(hidden)]
pub async fn serve_connection<H, S>(stream: S, handler: H, limits: Limits)
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (_never, stop) = watch::channel(false);
    Connections::new(limits, None, Gauge::default(), stop).http(stream, handler).await;
}

/// Counts a connection as open until dropped.
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Connections {
    pub(crate) fn new(
        limits: Limits,
        tls: Option<Arc<Tls>>,
        open: Gauge,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            // At most 100 headers, which is hyper's own: to say so has it fill arrays of them for each request.
            .max_buf_size(limits.max_head.max(8 << 10));
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(limits.max_head).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        Self { limits, tls, open, http, stop }
    }

    pub(crate) async fn serve_all<H: Handler>(
        self,
        mut streams: mpsc::UnboundedReceiver<Stream>,
        handler: H,
    ) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                stream = streams.recv() => {
                    let Some(stream) = stream else { break };
                    if let Some(counted) = self.admit() {
                        open.spawn(self.clone().serve(stream, handler.clone(), counted));
                    }
                }
                Some(_) = open.join_next() => {}
            }
        }
        let finished = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(self.limits.drain_timeout, finished).await.is_err() {
            tracing::warn!("requests were still under way when the drain time ended; they are dropped");
        }
        open.shutdown().await;
    }

    /// One more connection; none where there are as many as may be.
    pub(crate) fn admit(&self) -> Option<Open> {
        let before = self.open.inc();
        let counted = Open(self.open.clone());
        (before < self.limits.max_connections as i64).then_some(counted)
    }

    pub(crate) async fn serve<H: Handler>(self, stream: Stream, handler: H, _open: Open) {
        match stream {
            Stream::Unix(stream) => {
                let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
                self.http(stream, handler).await;
            }
            Stream::Tcp(stream) => {
                // An answer goes out at once, however small.
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
                let Some(tls) = &self.tls else { return self.http(stream, handler).await };
                let handshake =
                    tokio::time::timeout(self.limits.header_timeout, tls.acceptor().accept(stream));
                match handshake.await {
                    Ok(Ok(stream)) => self.http(stream, handler).await,
                    Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
    }

    async fn http<H, S>(self, stream: S, handler: H)
    where
        H: Handler,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let spoke = Arc::new(AtomicBool::new(false));
        let answers = Answers::default();
        let patience = self.limits.write_timeout;
        let service = {
            let (spoke, answers) = (Arc::clone(&spoke), answers.clone());
            service_fn(move |request: Request<Incoming>| {
                spoke.store(true, Relaxed);
                let (handler, answers) = (handler.clone(), answers.clone());
                let http2 = request.version() == Version::HTTP_2;
                async move {
                    let response = answer(handler, request).await;
                    Ok::<_, Infallible>(response.map(|body| match http2 {
                        true => answers.watch(body, patience),
                        false => Watched::unwatched(body),
                    }))
                }
            })
        };
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(patience));
        let stream = TokioIo::new(Box::pin(stream));
        let mut connection = pin!(self.http.serve_connection(stream, service));
        // Looked at when one of its limits is due, not whenever the connection gets on.
        let guard = guard(&self.limits, &self.open, self.stop.clone(), &spoke, &answers);
        let mut guard: FuturesUnordered<_> = std::iter::once(guard).collect();
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("a connection ended early: {error}");
                }
            }
            end = guard.next() => if let Some(End::Drain) = end {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

/// Why a connection does not go on.
enum End {
    /// Its client takes too long.
    Cut,
    /// The server stops.
    Drain,
}

/// Waits until a connection has to end.
async fn guard(
    limits: &Limits,
    open: &Gauge,
    mut stop: watch::Receiver<bool>,
    spoke: &AtomicBool,
    answers: &Answers,
) -> End {
    // hyper times a request's head only once it knows the HTTP version: a client that never says enough
    // for that is closed here.
    let silence = async {
        let whole = Instant::now() + limits.header_timeout;
        let crowded = limits.max_connections as i64 / 4 * 3;
        loop {
            sleep_until(whole.min(Instant::now() + CROWDED_TIMEOUT)).await;
            if spoke.load(Relaxed) {
                return pending().await;
            }
            if Instant::now() >= whole || open.get() > crowded {
                return;
            }
        }
    };
    let slowness = async {
        loop {
            sleep(limits.write_timeout).await;
            if answers.are_late() {
                tracing::debug!("a client took its answer too slowly");
                return;
            }
        }
    };
    tokio::select! {
        () = silence => End::Cut,
        () = slowness => End::Cut,
        _ = stop.wait_for(|stop| *stop) => End::Drain,
    }
}

/// The handler's answer; a refusal, as hyper's own are, of what it must not see.
async fn answer<H: Handler>(
    handler: H,
    request: Request<Incoming>,
) -> Response<Either<H::Body, Empty<Bytes>>> {
    let Some(status) = ambiguous(&request) else { return handler.handle(request).await.map(Either::Left) };
    tracing::debug!("a request was refused: its head can be understood in several ways");
    let mut refusal = Response::new(Either::Right(Empty::new()));
    *refusal.status_mut() = status;
    refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    refusal
}
