//! One connection from its first byte to its last: TLS, HTTP/1.1 or HTTP/2, time limits, drain.

use crate::app::App;
use crate::http::handle;
use crate::tls::Tls;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Requests one HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 256;

/// How much of a body HTTP/2 lets a client send before it is read.
const WINDOW: u32 = 1 << 20;

/// An accepted stream on its way to the runtime that serves it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Connections {
    app: Arc<App>,
    tls: Option<Arc<Tls>>,
    http: auto::Builder<TokioExecutor>,
    stop: watch::Receiver<bool>,
}

/// Counts a connection as open until dropped.
struct Open(Arc<App>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}

impl Connections {
    pub(crate) fn new(app: Arc<App>, tls: Option<Arc<Tls>>, stop: watch::Receiver<bool>) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(app.config.header_timeout)
            .max_buf_size(app.config.max_head.max(8 << 10))
            .max_headers(100);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(app.config.max_head).unwrap_or(u32::MAX))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(4 * WINDOW)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        Self { app, tls, http, stop }
    }

    /// Serves what comes until `streams` ends, then lets the connections finish for the drain time.
    pub(crate) async fn serve_all(self, mut streams: mpsc::UnboundedReceiver<Stream>) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                stream = streams.recv() => {
                    let Some(stream) = stream else { break };
                    if self.app.metrics.connections.inc() >= self.app.config.max_connections as i64 {
                        self.app.metrics.connections.dec();
                        continue;
                    }
                    open.spawn(self.clone().serve(stream, Open(Arc::clone(&self.app))));
                }
                Some(_) = open.join_next() => {}
            }
        }
        let finished = async { while open.join_next().await.is_some() {} };
        if tokio::time::timeout(self.app.config.drain_timeout, finished).await.is_err() {
            tracing::warn!("requests were still under way when the drain time ended; they are dropped");
        }
        open.shutdown().await;
    }

    async fn serve(self, stream: Stream, _open: Open) {
        match stream {
            Stream::Unix(stream) => {
                let Ok(stream) = tokio::net::UnixStream::from_std(stream) else { return };
                self.http(stream).await;
            }
            Stream::Tcp(stream) => {
                // An answer goes out at once, however small.
                let _ = stream.set_nodelay(true);
                let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
                let Some(tls) = &self.tls else { return self.http(stream).await };
                let handshake =
                    tokio::time::timeout(self.app.config.header_timeout, tls.acceptor().accept(stream));
                match handshake.await {
                    Ok(Ok(stream)) => self.http(stream).await,
                    Ok(Err(error)) => tracing::debug!("a TLS handshake failed: {error}"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut self, stream: S) {
        let spoke = Arc::new(AtomicBool::new(false));
        let service = {
            let (app, spoke) = (Arc::clone(&self.app), Arc::clone(&spoke));
            service_fn(move |request| {
                spoke.store(true, Relaxed);
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(handle(&app, request).await) }
            })
        };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        // hyper times a request's head only once it knows the HTTP version: a client that never
        // says enough for that is closed here.
        let mut silence = pin!(tokio::time::sleep(self.app.config.header_timeout));
        let mut timed = true;
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!("a connection ended early: {error}");
                    }
                    return;
                }
                () = silence.as_mut(), if timed => {
                    if !spoke.load(Relaxed) {
                        return;
                    }
                    timed = false;
                }
                _ = self.stop.wait_for(|stop| *stop) => break,
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}
