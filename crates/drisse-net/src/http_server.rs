//! A server's listeners and connections: accepts on one thread, serves on one runtime per core, and drains at the end.

use crate::connection::{Connections, Handler, Limits, Stream};
use crate::listen::{Listener, Listening};
use crate::resource_limits::open_files;
use crate::tls::Tls;
use prometheus_client::metrics::gauge::Gauge;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// The pause after a failed accept. The process most likely has no free descriptors: without a pause, it would spin.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Descriptors that are reserved for models, logs, probes and connections to replicas.
const RESERVED_FILES: usize = 256;

/// How long a server that stops waits for its clients to close their connections themselves.
const LAME_DUCK: Duration = Duration::from_millis(250);

/// A server's listeners and how to serve them.
#[derive(Debug)]
pub struct HttpServer {
    /// The bound sockets.
    pub listeners: Vec<Listener>,
    /// The certificate with which TCP listeners serve HTTPS; `None` serves HTTP.
    pub tls: Option<Arc<Tls>>,
    /// The limits of each connection and of the server.
    pub limits: Limits,
    /// The metric that counts open connections.
    pub open: Gauge,
}

/// The runtimes, which get connections round robin. `SO_REUSEPORT` would distribute connections at random: 16
/// connections on two cores would be split 10 to 6 or worse half of the time.
struct Reactors {
    senders: Vec<mpsc::UnboundedSender<Stream>>,
    next: usize,
}

impl HttpServer {
    /// Serves until `stop` completes, then lets unfinished requests end for at most the drain timeout, and returns.
    /// `make` returns the handler of each core. Must be awaited on a runtime that runs on a thread of its own.
    ///
    /// # Errors
    /// Returns the system's error if a listener cannot be registered or a thread cannot be started.
    pub async fn serve<H: Handler>(
        self,
        make: impl FnMut() -> H,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let (stopping, stopped) = watch::channel(false);
        let listeners = self.listeners.into_iter().map(Listening::new).collect::<Result<Vec<_>, _>>()?;
        let open = self.open.clone();
        let mut limits = self.limits;
        // Connections beyond the limit are closed instead of left waiting. Models and replicas need descriptors too.
        limits.max_connections =
            limits.max_connections.min(open_files().saturating_sub(RESERVED_FILES).max(1));
        let connections = Connections::new(limits, self.tls, self.open, stopped);
        let (reactors, ended) = start_reactors(&connections, make)?;
        let dealt = Arc::new(Mutex::new(reactors));
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            let dealt = Arc::clone(&dealt);
            acceptors.spawn(async move {
                loop {
                    deal(&dealt, listener.accept().await).await;
                }
            });
        }
        stop.await;
        // Accept no new connections, and first give clients time to close theirs: a connection that the server closes
        // could cross with a request that the client is sending.
        acceptors.shutdown().await;
        drop(dealt);
        let began = Instant::now();
        while open.get() > 0 && began.elapsed() < LAME_DUCK {
            tokio::time::sleep(LAME_DUCK / 50).await;
        }
        let _ = stopping.send(true);
        for reactor in ended {
            // An error also means that the thread has ended.
            let _ = reactor.await;
        }
        Ok(())
    }
}

/// Starts a thread with a runtime per core. Each returned receiver completes when its thread has finished serving.
fn start_reactors<H: Handler>(
    connections: &Connections,
    mut make: impl FnMut() -> H,
) -> std::io::Result<(Reactors, Vec<oneshot::Receiver<()>>)> {
    let mut reactors = Reactors { senders: Vec::new(), next: 0 };
    let mut ended = Vec::new();
    for nth in 0..connections.limits.threads.max(1) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, streams) = mpsc::unbounded_channel();
        let (done, finished) = oneshot::channel();
        let (connections, handler) = (connections.clone(), make());
        std::thread::Builder::new().name(format!("reactor-{nth}")).spawn(move || {
            runtime.block_on(connections.serve_all(streams, handler));
            let _ = done.send(());
        })?;
        reactors.senders.push(sender);
        ended.push(finished);
    }
    Ok((reactors, ended))
}

async fn deal(reactors: &Mutex<Reactors>, accepted: std::io::Result<Stream>) {
    match accepted {
        Ok(stream) => {
            let mut reactors = reactors.lock().unwrap_or_else(PoisonError::into_inner);
            reactors.next = (reactors.next + 1) % reactors.senders.len();
            // A runtime ends only after the acceptors have.
            let _ = reactors.senders[reactors.next].send(stream);
        }
        Err(error) => {
            tracing::warn!("cannot accept a connection: {error}");
            tokio::time::sleep(ACCEPT_AGAIN).await;
        }
    }
}
