//! Connections to one replica, kept per core: the last one used is the first used again.

use crate::endpoint::{Endpoint, HttpVersion};
use crate::upload::Upload;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A replica closes a connection that is idle for 60 s: one of half that age is surely open.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// How many bytes of an answer HTTP/2 lets a replica send before they are read.
const WINDOW: u32 = 1 << 20;

/// How many bytes of an answer's head HTTP/1.1 takes at most, and of its body at once.
const BUFFER: usize = 256 << 10;

/// A connection of HTTP/1.1 to a replica.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    pub(crate) sender: http1::SendRequest<Upload>,
    /// Whether it has carried a request before: then its end may only have gone unnoticed.
    pub(crate) used: bool,
}

/// Connections to one replica, by core.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    cores: Box<[CorePool]>,
}

/// The connections of one core.
#[derive(Debug, Default)]
struct CorePool {
    /// The idle ones of HTTP/1.1.
    idle: Mutex<Vec<IdleConnection>>,
    /// The one of HTTP/2, which all calls of gRPC share.
    http2: Mutex<Option<http2::SendRequest<Upload>>>,
}

#[derive(Debug)]
struct IdleConnection {
    connection: PooledConnection,
    since: Instant,
}

impl Pool {
    /// A pool without connections.
    pub(crate) fn new(endpoint: Endpoint, cores: usize) -> Self {
        Self { endpoint, cores: (0..cores.max(1)).map(|_| CorePool::default()).collect() }
    }

    /// The idle connection used last, or a new one.
    pub(crate) async fn http1(&self, core: usize) -> io::Result<PooledConnection> {
        match self.idle(core).await {
            Some(connection) => Ok(connection),
            None => self.open_http1().await,
        }
    }

    async fn idle(&self, core: usize) -> Option<PooledConnection> {
        loop {
            let mut connection = {
                let mut idle = self.cores[core].idle.lock().unwrap_or_else(PoisonError::into_inner);
                let IdleConnection { connection, since } = idle.pop()?;
                if since.elapsed() > MAX_IDLE {
                    // The others are older still.
                    idle.clear();
                    return None;
                }
                connection
            };
            // It came back with its answer's last byte; its task may still be finishing.
            if connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    async fn open_http1(&self) -> io::Result<PooledConnection> {
        let stream = TokioIo::new(self.endpoint.connect(HttpVersion::Http1).await?);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER);
        let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        // Bounded by `sender`: ends when that is dropped or the replica closes.
        #[expect(clippy::disallowed_methods, reason = "the task ends with its connection")]
        tokio::spawn(connection);
        Ok(PooledConnection { sender, used: false })
    }

    /// The open connection of HTTP/2, or a new one.
    pub(crate) async fn http2(&self, core: usize) -> io::Result<http2::SendRequest<Upload>> {
        let shared = &self.cores[core].http2;
        let open = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(mut open) = open
            && open.ready().await.is_ok()
        {
            return Ok(open);
        }
        let sender = self.open_http2().await?;
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        Ok(sender)
    }

    async fn open_http2(&self) -> io::Result<http2::SendRequest<Upload>> {
        let stream = TokioIo::new(self.endpoint.connect(HttpVersion::Http2).await?);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(WINDOW).initial_connection_window_size(4 * WINDOW);
        let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
        // Bounded by `sender` and its clones, as are the tasks that `TokioExecutor` spawns for it: ends when the last
        // is dropped or the replica closes.
        #[expect(clippy::disallowed_methods, reason = "the task ends with its connection")]
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Takes back a connection whose answer was read to its end.
    pub(crate) fn put(&self, core: usize, connection: PooledConnection) {
        if !connection.sender.is_closed() {
            let mut idle = self.cores[core].idle.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = PooledConnection { used: true, ..connection };
            idle.push(IdleConnection { connection, since: Instant::now() });
        }
    }
}
