//! Connections to one replica, kept per core: the last one used is the first used again.

use crate::replica::Endpoint;
use crate::upload::Upload;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A replica closes a connection that is idle for 60 s: one of half that age is surely open.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// How much of an answer HTTP/2 lets a replica send before it is taken.
const WINDOW: u32 = 1 << 20;

/// A connection to a replica.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) sender: SendRequest<Upload>,
    /// Whether it has carried a request before: then its end may only have gone unnoticed.
    pub(crate) used: bool,
}

/// Connections to one replica, by core.
#[derive(Debug)]
pub(crate) struct Pool(Box<[OfCore]>);

/// One core's.
#[derive(Debug, Default)]
struct OfCore {
    /// Those that are free, of HTTP/1.1.
    free: Mutex<Vec<Free>>,
    /// The one of HTTP/2, which all calls of gRPC share.
    http2: Mutex<Option<http2::SendRequest<Upload>>>,
}

/// A free connection, and since when it is.
#[derive(Debug)]
struct Free {
    upstream: Upstream,
    since: Instant,
}

/// Opens a stream to an endpoint and evaluates `$then` with it, whichever of the two types the stream has.
macro_rules! connected {
    ($endpoint:expr, $io:ident => $then:expr) => {
        match $endpoint {
            Endpoint::Unix(socket) => {
                let $io = TokioIo::new(socket.connect().await?);
                $then
            }
            Endpoint::Tcp(host) => {
                let stream = TcpStream::connect(host).await?;
                // A request goes out at once, however small.
                stream.set_nodelay(true)?;
                let $io = TokioIo::new(stream);
                $then
            }
        }
    };
}

impl Upstream {
    pub(crate) async fn open(endpoint: &Endpoint) -> std::io::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(256 << 10);
        connected!(endpoint, io => {
            let (sender, connection) = builder.handshake(io).await.map_err(std::io::Error::other)?;
            // Ends when the sender is dropped or the replica closes.
            tokio::spawn(connection);
            Ok(Self { sender, used: false })
        })
    }
}

async fn open_http2(endpoint: &Endpoint) -> std::io::Result<http2::SendRequest<Upload>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW);
    connected!(endpoint, io => {
        let (sender, connection) = builder.handshake(io).await.map_err(std::io::Error::other)?;
        // Ends when the last sender is dropped or the replica closes.
        tokio::spawn(connection);
        Ok(sender)
    })
}

impl Pool {
    pub(crate) fn new(cores: usize) -> Self {
        Self((0..cores.max(1)).map(|_| OfCore::default()).collect())
    }

    /// The free connection used last, if one is open.
    pub(crate) async fn take(&self, core: usize) -> Option<Upstream> {
        loop {
            let mut upstream = {
                let mut free = self.0[core].free.lock().unwrap_or_else(PoisonError::into_inner);
                let Free { upstream, since } = free.pop()?;
                if since.elapsed() > MAX_IDLE {
                    // Those below are older still.
                    free.clear();
                    return None;
                }
                upstream
            };
            // It was put back when its answer's last byte was read; its task may still be finishing.
            if upstream.sender.ready().await.is_ok() {
                return Some(upstream);
            }
        }
    }

    /// The open connection of HTTP/2, or a new one.
    pub(crate) async fn http2(
        &self,
        core: usize,
        endpoint: &Endpoint,
    ) -> std::io::Result<http2::SendRequest<Upload>> {
        let shared = &self.0[core].http2;
        let open = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut open) = open
            && open.ready().await.is_ok()
        {
            return Ok(open);
        }
        let sender = open_http2(endpoint).await?;
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        Ok(sender)
    }

    /// Takes back a connection whose answer was read to its end.
    pub(crate) fn put(&self, core: usize, upstream: Upstream) {
        if !upstream.sender.is_closed() {
            let mut free = self.0[core].free.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(Free { upstream: Upstream { used: true, ..upstream }, since: Instant::now() });
        }
    }
}
