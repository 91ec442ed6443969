//! Connections to one replica, kept per core: the last one used is the first used again.

use crate::replica::Place;
use crate::upload::Upload;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};

/// A replica closes a connection that is idle for 60 s: one of half that age is surely open.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// A connection to a replica.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) sender: SendRequest<Upload>,
    /// Whether it has carried a request before: then its end may only have gone unnoticed.
    pub(crate) used: bool,
}

/// Free connections, by core.
#[derive(Debug)]
pub(crate) struct Pool(Box<[Mutex<Vec<Free>>]>);

/// A free connection, and since when it is.
#[derive(Debug)]
struct Free {
    upstream: Upstream,
    since: Instant,
}

impl Upstream {
    pub(crate) async fn open(place: &Place) -> std::io::Result<Self> {
        macro_rules! handshake {
            ($stream:expr) => {{
                let mut builder = http1::Builder::new();
                builder.max_buf_size(256 << 10);
                let (sender, connection) =
                    builder.handshake(TokioIo::new($stream)).await.map_err(std::io::Error::other)?;
                // Ends when the sender is dropped or the replica closes.
                tokio::spawn(connection);
                Ok(Self { sender, used: false })
            }};
        }
        match place {
            Place::Unix(path) => handshake!(UnixStream::connect(path).await?),
            Place::Tcp(host) => {
                let stream = TcpStream::connect(host).await?;
                // A request goes out at once, however small.
                stream.set_nodelay(true)?;
                handshake!(stream)
            }
        }
    }
}

impl Pool {
    pub(crate) fn new(cores: usize) -> Self {
        Self((0..cores.max(1)).map(|_| Mutex::default()).collect())
    }

    /// The free connection used last, if one is open.
    pub(crate) async fn take(&self, core: usize) -> Option<Upstream> {
        loop {
            let mut upstream = {
                let mut free = self.0[core].lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Takes back a connection whose answer was read to its end.
    pub(crate) fn put(&self, core: usize, upstream: Upstream) {
        if !upstream.sender.is_closed() {
            let mut free = self.0[core].lock().unwrap_or_else(PoisonError::into_inner);
            free.push(Free { upstream: Upstream { used: true, ..upstream }, since: Instant::now() });
        }
    }
}
