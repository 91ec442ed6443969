//! The gateway's life: read the routes, serve, drain, end.

use crate::admin::Admin;
use crate::proxy::{Proxy, Shared};
use crate::table::{Table, TableError};
use drisse_net::trace::Traces;
use drisse_net::{Door, Front, Handler, Limits, Listener, Tls, blocking, serve_few};
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;

/// How often a certificate's files are looked at.
const TLS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a gateway that ends waits for each access log.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What a gateway needs to be told.
#[derive(Debug)]
pub struct Config {
    /// Bound sockets for requests.
    pub listeners: Vec<Listener>,
    /// The admin socket.
    pub admin: Listener,
    /// HTTPS, where there is a certificate.
    pub tls: Option<Tls>,
    /// Where routes are kept.
    pub routes: PathBuf,
    /// Threads that serve connections.
    pub threads: usize,
    /// What traces requests, where anything does.
    pub traces: Option<Arc<Traces>>,
    /// How long requests under way may take once the gateway was told to stop.
    pub drain_timeout: Duration,
    /// What `/identity` tells; `nonce` in it names this process (at least 12 characters).
    pub identity: serde_json::Value,
}

/// A gateway ready to run.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    table: Arc<Table>,
}

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The routes cannot be read.
    #[error("cannot read the routes")]
    Routes(#[from] TableError),
    /// The sockets cannot be served.
    #[error("cannot serve")]
    Serve(#[from] std::io::Error),
}

impl Gateway {
    /// Reads the routes that are kept.
    pub fn new(config: Config) -> Result<Self, GatewayError> {
        let table = Arc::new(Table::open(&config.routes, config.threads)?);
        Ok(Self { config, table })
    }

    /// Serves until `stop` completes, then answers what is under way and returns. To be awaited on a
    /// runtime of its own thread.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), GatewayError> {
        let Self { config, table } = self;
        let nonce = config.identity["nonce"].as_str().filter(|nonce| nonce.len() >= 12 && nonce.is_ascii());
        let shared = Shared::new(&table, nonce.unwrap_or("000000000000"), config.traces);
        let limits = Limits {
            // An idle one takes about 8 KiB.
            max_connections: 16_384,
            header_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            max_head: 32 << 10,
            drain_timeout: config.drain_timeout,
            threads: config.threads,
        };
        let tls = config.tls.map(Arc::new);
        let open = table.metrics.connections.clone();
        let front = Front { listeners: config.listeners, tls: tls.clone(), limits, open };
        let mut cores = 0..;
        let make = || Proxy { shared: Arc::clone(&shared), core: cores.next().unwrap_or(0) };
        let stop = async {
            stop.await;
            shared.draining.store(true, Relaxed);
        };
        let mut front = pin!(front.serve(make, stop));
        let (end, ends) = watch::channel(false);
        let door = Door::of(&config.admin);
        let admin = Admin { shared: Arc::clone(&shared), identity: Arc::new(config.identity), door };
        let admin = serve_few(config.admin, admin, ends)?;
        let beside = async { tokio::join!(admin, renew(tls)) };
        let ended = tokio::select! {
            ended = &mut front => ended,
            _ = beside => Ok(()),
        };
        let _ = end.send(true);
        blocking(move || table.flush_access_logs(LAST_LINES)).await;
        Ok(ended?)
    }
}

/// What answers requests along the routes of `table`, and how to ask for the bytes of bodies it holds. For
/// fuzzing, with [`drisse_net::serve_connection`].
#[doc(hidden)]
pub fn handler(table: &Arc<Table>) -> (impl Handler<Body: Unpin> + use<>, impl Fn() -> u64 + use<>) {
    let shared = Shared::new(table, "000000000000", None);
    (Proxy { shared: Arc::clone(&shared), core: 0 }, move || shared.holding.bytes())
}

/// Takes up a renewed certificate.
async fn renew(tls: Option<Arc<Tls>>) {
    let Some(tls) = tls else { return std::future::pending().await };
    loop {
        tokio::time::sleep(TLS_INTERVAL).await;
        let files = Arc::clone(&tls);
        match blocking(move || files.reload()).await {
            Ok(true) => tracing::info!("the certificate changed"),
            Ok(false) => {}
            Err(error) => tracing::debug!("the certificate cannot be used, the one before stays: {error}"),
        }
    }
}
