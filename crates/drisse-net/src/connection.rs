//! Serves one connection from start to end: TLS, HTTP/1.1 or HTTP/2, time limits, drain.

use crate::answers::{Answers, Watched};
use crate::path;
use crate::request::ambiguous;
use crate::tls::Tls;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
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

/// The number of concurrent requests on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// When three quarters of the connections are in use, a new connection without a request is closed after this time.
const CROWDED_TIMEOUT: Duration = Duration::from_secs(5);

/// The HTTP/2 flow-control window of a stream, in bytes: what a client may send before the server reads it.
const WINDOW: u32 = 1 << 20;

/// An accepted stream on its way to the runtime that serves it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// Answers requests. There is one handler per core, which is cloned for each request.
pub trait Handler: Clone + Send + 'static {
    /// The body of the responses.
    type Body: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + Unpin + 'static;

    /// Answers one request. The future is dropped if the client closes its connection, so it must be cancel-safe.
    fn handle(self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// The limits of a server's connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The number of open connections; further ones are closed at once.
    pub max_connections: usize,
    /// How long a client may take to send its first request head whole.
    pub header_timeout: Duration,
    /// How long a kept-alive connection may be without a whole request. Responses over TCP say it (`Keep-Alive`).
    pub idle_timeout: Duration,
    /// How long a client may read nothing of its response. Then its connection is closed.
    pub write_timeout: Duration,
    /// The size of a request's head in bytes.
    pub max_head: usize,
    /// How long unfinished requests may take after the server begins to stop. Then they are dropped.
    pub drain_timeout: Duration,
    /// The number of threads that serve connections.
    pub threads: usize,
}

impl Default for Limits {
    /// The limits suit a machine of any size; a thread for each core.
    fn default() -> Self {
        Self {
            // An idle connection takes about 8 KiB.
            max_connections: 16_384,
            header_timeout: Duration::from_secs(60),
            // Longer than the 60 s of most load balancers: the side that sends must be the one that closes first.
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            max_head: 32 << 10,
            // Kubernetes kills a pod after 30 s.
            drain_timeout: Duration::from_secs(25),
            // The machine's, or the cgroup's limit.
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The settings and the state that all connections of a server share.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) limits: Limits,
    tls: Option<Arc<Tls>>,
    open: Gauge,
    http: auto::Builder<TokioExecutor>,
    stop: watch::Receiver<bool>,
}

/// Serves one open connection over any byte stream until it ends. For fuzzing: opens no socket and starts no runtime.
#[doc(hidden)]
pub async fn serve_connection<H, S>(stream: S, handler: H, limits: Limits)
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (_never, stop) = watch::channel(false);
    Connections::new(limits, None, Gauge::default(), stop).http(stream, handler, None).await;
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
            .header_read_timeout(limits.idle_timeout)
            // `max_headers` stays unset: its default is 100, and setting it makes hyper allocate for each request.
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
            tracing::warn!("requests were unfinished when the drain timeout ended; they are dropped");
        }
        open.shutdown().await;
    }

    /// Counts a new connection as open; `None` if the limit is reached.
    pub(crate) fn admit(&self) -> Option<Open> {
        let before = self.open.inc();
        let counted = Open(self.open.clone());
        (before < self.limits.max_connections as i64).then_some(counted)
    }

    pub(crate) async fn serve<H: Handler>(self, stream: Stream, handler: H, _open: Open) {
        match stream {
            Stream::Unix(stream) => {
                let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
                self.http(stream, handler, None).await;
            }
            Stream::Tcp(stream) => {
                let keep_alive =
                    HeaderValue::try_from(format!("timeout={}", self.limits.idle_timeout.as_secs())).ok();
                // Small responses are sent at once.
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
                let Some(tls) = &self.tls else { return self.http(stream, handler, keep_alive).await };
                let handshake =
                    tokio::time::timeout(self.limits.header_timeout, tls.acceptor().accept(stream));
                match handshake.await {
                    Ok(Ok(stream)) => self.http(stream, handler, keep_alive).await,
                    Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
    }

    /// Serves a connection. Responses of HTTP/1.1 say how long it may be idle: `keep_alive`.
    async fn http<H, S>(self, stream: S, handler: H, keep_alive: Option<HeaderValue>)
    where
        H: Handler,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let spoke = Arc::new(AtomicBool::new(false));
        let answers = Answers::new(keep_alive);
        let patience = self.limits.write_timeout;
        let service = {
            let (spoke, answers) = (Arc::clone(&spoke), answers.clone());
            service_fn(move |request: Request<Incoming>| {
                spoke.store(true, Relaxed);
                let (handler, answers) = (handler.clone(), answers.clone());
                let http2 = request.version() == Version::HTTP_2;
                async move {
                    let mut response = answer(handler, request).await;
                    if !http2 {
                        answers.announce(response.headers_mut());
                    }
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
        // In a `FuturesUnordered`, the guard is polled when one of its timers fires, not on every progress of the
        // connection.
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

/// Why a connection must end.
enum End {
    /// The client takes too long.
    Cut,
    /// The server stops.
    Drain,
}

/// Waits until a connection must end, and returns why.
async fn guard(
    limits: &Limits,
    open: &Gauge,
    mut stop: watch::Receiver<bool>,
    spoke: &AtomicBool,
    answers: &Answers,
) -> End {
    // hyper limits the time of a request head only once it knows the HTTP version. A client that sends too little for
    // that is closed here.
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
                tracing::debug!("a client read its response too slowly");
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

/// Returns the handler's response, or refuses a request that two servers could understand differently, which the
/// handler must not see.
async fn answer<H: Handler>(
    handler: H,
    mut request: Request<Incoming>,
) -> Response<Either<H::Body, Full<Bytes>>> {
    if let Some(status) = ambiguous(&request) {
        // Like hyper's own refusals, the response has no body.
        tracing::debug!("a request was refused: its head is ambiguous");
        let mut refusal = Response::new(Either::Right(Full::default()));
        *refusal.status_mut() = status;
        refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return refusal;
    }
    if let Err(why) = path::normalize(request.uri_mut()) {
        // Each protocol's clients find the message by one of the two names.
        let text = format!("{{\"error\":\"{why}\",\"message\":\"{why}\"}}");
        let mut refusal = Response::new(Either::Right(Full::from(text)));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        refusal.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return refusal;
    }
    handler.handle(request).await.map(Either::Left)
}
