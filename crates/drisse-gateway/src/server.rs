//! Running a gateway: reads the routes, serves, drains and stops.

use crate::admin::Admin;
use crate::state::{Core, GatewayState};
use crate::table::{Table, TableError};
use drisse_net::trace::Traces;
use drisse_net::{Handler, HttpServer, Limits, Listener, ListenerKind, Tls, blocking, serve_small};
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::watch;

/// The interval at which the certificate's files are read.
const TLS_INTERVAL: Duration = Duration::from_secs(1);

/// The longest wait for each access log to be written when a gateway stops.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// The configuration of a [`Gateway`].
#[derive(Debug)]
pub struct Config {
    /// Bound sockets for requests.
    pub listeners: Vec<Listener>,
    /// The admin socket.
    pub admin: Listener,
    /// The certificate for HTTPS; `None` serves plain HTTP.
    pub tls: Option<Tls>,
    /// The folder in which routes are stored.
    pub routes: PathBuf,
    /// The number of threads that serve connections.
    pub threads: usize,
    /// Collects spans; `None` traces nothing.
    pub traces: Option<Arc<Traces>>,
    /// The time that requests in flight get to complete when the gateway stops.
    pub drain_timeout: Duration,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
    /// The document at `/identity`.
    pub identity: serde_json::Value,
}

/// A gateway that is ready to run.
///
/// ```
/// use drisse_gateway::{Config, Gateway};
/// use drisse_net::{Listener, bind_tcp, bind_unix};
///
/// let folder = tempfile::tempdir()?;
/// let gateway = Gateway::new(Config {
///     listeners: vec![Listener::Tcp(bind_tcp("127.0.0.1:0".parse()?)?)],
///     admin: Listener::Unix(bind_unix(&folder.path().join("admin"))?),
///     routes: folder.path().join("routes"),
///     threads: 1,
///     drain_timeout: std::time::Duration::from_secs(25),
///     idle_timeout: std::time::Duration::from_secs(75),
///     identity: serde_json::json!({ "nonce": "0123456789ab" }),
///     tls: None,
///     traces: None,
/// })?;
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// runtime.block_on(gateway.run(async { /* completes when the gateway must stop */ }))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    /// Creates a gateway with the routes that are stored on disk.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created or read.
    pub fn new(config: Config) -> Result<Self, GatewayError> {
        let table = Arc::new(Table::open(&config.routes, config.threads)?);
        Ok(Self { config, table })
    }

    /// Serves until `stop` completes, then answers the requests in flight and returns. Needs a current-thread runtime
    /// of its own.
    ///
    /// # Errors
    /// Returns an error if the sockets cannot be served.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), GatewayError> {
        let Self { config, table } = self;
        let state = GatewayState::new(&table, config.traces);
        let Config { drain_timeout, idle_timeout, threads, .. } = config;
        let limits = Limits { drain_timeout, idle_timeout, threads, ..Limits::default() };
        let tls = config.tls.map(Arc::new);
        let open = table.metrics.connections.clone();
        let front = HttpServer { listeners: config.listeners, tls: tls.clone(), limits, open };
        let mut cores = 0..;
        let make = || Core { state: Arc::clone(&state), index: cores.next().unwrap_or(0) };
        let stop = async {
            stop.await;
            state.draining.store(true, Relaxed);
        };
        let mut front = pin!(front.serve(make, stop));
        let (end, ends) = watch::channel(false);
        let listener = ListenerKind::of(&config.admin);
        let admin = Admin { state: Arc::clone(&state), identity: Arc::new(config.identity), listener };
        let admin = serve_small(config.admin, admin, ends)?;
        let beside = async { tokio::join!(admin, renew(tls)) };
        let ended = tokio::select! {
            ended = &mut front => ended,
            _ = beside => Ok(()),
        };
        let _ = end.send(true);
        blocking(move || table.flush_access_logs(LOG_TIMEOUT)).await;
        Ok(ended?)
    }
}

/// Returns a handler that routes by `table`, and a function that returns the bytes of bodies in memory. For fuzzing,
/// with [`drisse_net::serve_connection`].
#[doc(hidden)]
pub fn handler(table: &Arc<Table>) -> (impl Handler<Body: Unpin> + use<>, impl Fn() -> u64 + use<>) {
    let state = GatewayState::new(table, None);
    (Core { state: Arc::clone(&state), index: 0 }, move || state.uploads.bytes())
}

/// Reloads the certificate whenever its files change.
async fn renew(tls: Option<Arc<Tls>>) {
    let Some(tls) = tls else { return std::future::pending().await };
    loop {
        tokio::time::sleep(TLS_INTERVAL).await;
        let files = Arc::clone(&tls);
        match blocking(move || files.reload()).await {
            Ok(true) => tracing::info!("the certificate changed"),
            Ok(false) => {}
            Err(error) => tracing::debug!(
                "the new certificate cannot be used, the gateway keeps the one before: {error}"
            ),
        }
    }
}
