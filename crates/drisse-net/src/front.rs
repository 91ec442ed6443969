//! The front of a server: accept on one thread, serve on one runtime per core, drain, end.

use crate::connection::{Connections, Handler, Limits, Stream};
use crate::listen::{Listener, Listening};
use crate::process::open_files;
use crate::tls::Tls;
use prometheus_client::metrics::gauge::Gauge;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Accepting failed for want of descriptors, most likely: trying again at once would spin.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Files kept for what is no connection: models, logs, probes, connections to replicas.
const RESERVED_FILES: usize = 256;

/// How long a server that stops waits for its clients to close their connections themselves.
const LAME_DUCK: Duration = Duration::from_millis(250);

/// Where and how a server is reached.
#[derive(Debug)]
pub struct Front {
    /// Bound sockets.
    pub listeners: Vec<Listener>,
    /// HTTPS on the TCP ones, where there is a certificate.
    pub tls: Option<Arc<Tls>>,
    /// What a connection may do.
    pub limits: Limits,
    /// Counts the connections that are open.
    pub open: Gauge,
}

/// The runtimes connections are dealt to in turn. `SO_REUSEPORT` would deal by chance: with 16
/// connections to two cores, 10 to 6 or worse half of the time.
struct Reactors {
    senders: Vec<mpsc::UnboundedSender<Stream>>,
    next: usize,
}

impl Front {
    /// Serves until `stop` completes, then answers what is under way, for at most the drain time, and
    /// returns. `make` gives each core its handler. To be awaited on a runtime of its own thread.
    pub async fn serve<H: Handler>(
        self,
        make: impl FnMut() -> H,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let (stopping, stopped) = watch::channel(false);
        let listeners = self.listeners.into_iter().map(Listening::new).collect::<Result<Vec<_>, _>>()?;
        let open = self.open.clone();
        let mut limits = self.limits;
        // Connections beyond what may be open are closed, not left waiting: others need files too.
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
        // No new connections. Those there are told to close with their next answer; only one that says
        // nothing for a while is closed from here, so that no request crosses with that.
        acceptors.shutdown().await;
        drop(dealt);
        let began = Instant::now();
        while open.get() > 0 && began.elapsed() < LAME_DUCK {
            tokio::time::sleep(LAME_DUCK / 50).await;
        }
        let _ = stopping.send(true);
        for reactor in ended {
            // An error says that its thread ended too.
            let _ = reactor.await;
        }
        Ok(())
    }
}

/// One thread with one runtime per core, and for each a word when it has ended.
fn start_reactors<H: Handler>(
    connections: &Connections,
    mut make: impl FnMut() -> H,
) -> std::io::Result<(Reactors, Vec<oneshot::Receiver<()>>)> {
    let mut reactors = Reactors { senders: Vec::new(), next: 0 };
    let mut ended = Vec::new();
    for nth in 0..connections.limits.threads.max(1) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, streams) = mpsc::unbounded_channel();
        let (tell, told) = oneshot::channel();
        let (connections, handler) = (connections.clone(), make());
        std::thread::Builder::new().name(format!("reactor-{nth}")).spawn(move || {
            runtime.block_on(connections.serve_all(streams, handler));
            let _ = tell.send(());
        })?;
        reactors.senders.push(sender);
        ended.push(told);
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
