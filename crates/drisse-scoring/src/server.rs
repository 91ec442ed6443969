//! The server's life: accept on one thread, serve on one runtime per core, drain, end.

use crate::app::App;
use crate::http::admin::{self, Reach};
use crate::http::connection::{Connections, Stream};
use crate::listen::{AdminListener, Listeners};
use crate::tls::Tls;
use crate::watch::watch;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch as signal};
use tokio::task::JoinSet;

/// Accepting failed for want of descriptors, most likely: trying again at once would spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// A server ready to run.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    listeners: Listeners,
    tls: Option<Arc<Tls>>,
}

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct ServerError {
    what: &'static str,
    source: std::io::Error,
}

/// The runtimes connections are dealt to in turn. `SO_REUSEPORT` would deal by chance: with 16
/// connections to two cores, 10 to 6 or worse half of the time.
struct Reactors {
    senders: Vec<mpsc::UnboundedSender<Stream>>,
    next: usize,
}

impl Server {
    /// Serves `app` on `listeners`, scoring over TLS where there is a certificate.
    pub fn new(app: Arc<App>, listeners: Listeners, tls: Option<Tls>) -> Self {
        Self { app, listeners, tls: tls.map(Arc::new) }
    }

    /// Serves until `stop` completes, then answers what is under way and returns. To be awaited on a
    /// runtime of its own thread: scoring happens on others.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let failed = |what| move |source| ServerError { what, source };
        let (stopping, stopped) = signal::channel(false);
        let connections = Connections::new(Arc::clone(&self.app), self.tls.clone(), stopped.clone());
        let (reactors, ended) =
            start_reactors(&self.app, &connections).map_err(failed("start the runtimes"))?;

        let mut tasks = JoinSet::new();
        let dealt = Arc::new(std::sync::Mutex::new(reactors));
        let tcp = self.listeners.tcp.into_iter().map(Listening::tcp);
        let unix = self.listeners.unix.into_iter().map(Listening::unix);
        for listener in tcp.chain(unix) {
            let listener = listener.map_err(failed("listen"))?;
            let dealt = Arc::clone(&dealt);
            tasks.spawn(async move {
                loop {
                    deal(&dealt, listener.accept().await).await;
                }
            });
        }
        let (end_admin, admin_ends) = signal::channel(false);
        let admin = serve_admin(&self.app, self.listeners.admin, admin_ends)
            .map_err(failed("listen for the admin"))?;
        let mut admin = pin!(admin);
        let mut files = pin!(watch(&self.app, self.tls.as_deref()));
        let mut stop = pin!(stop);
        tokio::select! {
            () = &mut stop => {}
            () = &mut admin => {}
            () = &mut files => {}
        }

        // No new connections; those there finish what they began. The admin answers until the end.
        self.app.drain();
        tasks.shutdown().await;
        drop(dealt);
        let _ = stopping.send(true);
        let mut ended = pin!(async {
            for reactor in ended {
                // An error says that its thread ended too.
                let _ = reactor.await;
            }
        });
        tokio::select! {
            () = &mut ended => {}
            () = &mut admin => ended.await,
        }
        let _ = end_admin.send(true);
        Ok(())
    }
}

/// One thread with one runtime per core, and for each a word when it has ended.
fn start_reactors(
    app: &Arc<App>,
    connections: &Connections,
) -> std::io::Result<(Reactors, Vec<oneshot::Receiver<()>>)> {
    let mut reactors = Reactors { senders: Vec::new(), next: 0 };
    let mut ended = Vec::new();
    for nth in 0..app.config.threads.max(1) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, streams) = mpsc::unbounded_channel();
        let (tell, told) = oneshot::channel();
        let connections = connections.clone();
        std::thread::Builder::new().name(format!("scoring-{nth}")).spawn(move || {
            runtime.block_on(connections.serve_all(streams));
            let _ = tell.send(());
        })?;
        reactors.senders.push(sender);
        ended.push(told);
    }
    Ok((reactors, ended))
}

async fn deal(reactors: &std::sync::Mutex<Reactors>, accepted: std::io::Result<Stream>) {
    match accepted {
        Ok(stream) => {
            let mut reactors = reactors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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

/// A bound socket, registered with the runtime that accepts.
enum Listening {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Listening {
    fn tcp(listener: std::net::TcpListener) -> std::io::Result<Self> {
        tokio::net::TcpListener::from_std(listener).map(Self::Tcp)
    }

    fn unix(listener: std::os::unix::net::UnixListener) -> std::io::Result<Self> {
        tokio::net::UnixListener::from_std(listener).map(Self::Unix)
    }

    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await?.0.into_std().map(Stream::Tcp),
            Self::Unix(listener) => listener.accept().await?.0.into_std().map(Stream::Unix),
        }
    }
}

/// The admin listener's connections, on the runtime of the caller.
fn serve_admin(
    app: &Arc<App>,
    listener: Option<AdminListener>,
    end: signal::Receiver<bool>,
) -> std::io::Result<impl Future<Output = ()>> {
    let listening = match listener {
        None => None,
        Some(AdminListener::Unix(listener)) => Some((Listening::unix(listener)?, Reach::ThisMachine)),
        Some(AdminListener::Tcp(listener)) => {
            let loopback = listener.local_addr()?.ip().is_loopback();
            Some((Listening::tcp(listener)?, if loopback { Reach::ThisMachine } else { Reach::Beyond }))
        }
    };
    let app = Arc::clone(app);
    Ok(async move {
        let Some((listener, reach)) = listening else { return std::future::pending().await };
        let mut connections = JoinSet::new();
        loop {
            let stream = listener.accept().await;
            while connections.try_join_next().is_some() {}
            match stream {
                Ok(stream) if connections.len() < admin::MAX_CONNECTIONS => {
                    connections.spawn(admin::serve(Arc::clone(&app), stream, reach, end.clone()));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            }
        }
    })
}
