//! The open connections to one replica, per core. The connection that was used last is reused first.

use crate::endpoint::{Endpoint, HttpVersion};
use crate::upload::Upload;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest time that a connection stays in the pool. A replica closes a connection that has been idle for 60 s.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// The HTTP/2 flow-control window of a stream in bytes: a replica may send this much of an answer before it is read.
const WINDOW: u32 = 1 << 20;

/// The read buffer of an HTTP/1.1 connection in bytes, which also bounds the head of an answer.
const BUFFER: usize = 256 << 10;

/// An HTTP/1.1 connection to a replica.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    pub(crate) sender: http1::SendRequest<Upload>,
    /// Whether the connection has carried a request before. The replica may have closed it since.
    pub(crate) used: bool,
}

/// The connections to one replica, by core.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    cores: Box<[CorePool]>,
}

/// The connections of one core.
#[derive(Debug, Default)]
struct CorePool {
    /// The idle HTTP/1.1 connections.
    idle: Mutex<Vec<IdleConnection>>,
    /// The HTTP/2 connection, which all gRPC calls of the core share.
    http2: Mutex<Option<http2::SendRequest<Upload>>>,
}

#[derive(Debug)]
struct IdleConnection {
    connection: PooledConnection,
    since: Instant,
}

impl Pool {
    /// Creates a pool without connections.
    pub(crate) fn new(endpoint: Endpoint, cores: usize) -> Self {
        Self { endpoint, cores: (0..cores.max(1)).map(|_| CorePool::default()).collect() }
    }

    /// Returns the idle HTTP/1.1 connection that was used last, or opens one.
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
                    // The others have been idle for longer.
                    idle.clear();
                    return None;
                }
                connection
            };
            // The connection was returned with the last byte of its answer; its task may not have finished yet.
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
        // The task ends when `sender` is dropped or the replica closes the connection.
        #[expect(clippy::disallowed_methods, reason = "the task ends with its connection")]
        tokio::spawn(connection);
        Ok(PooledConnection { sender, used: false })
    }

    /// Returns the open HTTP/2 connection of a core, or opens one.
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
        // The task ends when the last clone of `sender` is dropped or the replica closes the connection, and so do the
        // tasks that `TokioExecutor` spawns for it.
        #[expect(clippy::disallowed_methods, reason = "the task ends with its connection")]
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Returns a connection to the pool after its answer was read completely.
    pub(crate) fn put(&self, core: usize, connection: PooledConnection) {
        if !connection.sender.is_closed() {
            let mut idle = self.cores[core].idle.lock().unwrap_or_else(PoisonError::into_inner);
            let connection = PooledConnection { used: true, ..connection };
            idle.push(IdleConnection { connection, since: Instant::now() });
        }
    }
}
