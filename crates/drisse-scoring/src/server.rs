//! The server's life: serve on one runtime per core beside the admin listener, drain, end.

use crate::app::App;
use crate::http::Scoring;
use crate::http::admin::{Admin, Reach};
use crate::watch::watch;
use drisse_net::{Door, Front, Listener, Tls, serve_few};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch as signal;

/// Where a server listens.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For scoring.
    pub scoring: Vec<Listener>,
    /// For operators, probes and Prometheus. What changes something is served only where it cannot be
    /// reached from afar.
    pub admin: Option<Listener>,
}

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

impl Server {
    /// Serves `app` on `listeners`, scoring over TLS where there is a certificate.
    pub fn new(app: Arc<App>, listeners: Listeners, tls: Option<Tls>) -> Self {
        Self { app, listeners, tls: tls.map(Arc::new) }
    }

    /// Serves until `stop` completes, then answers what is under way and returns. To be awaited on a
    /// runtime of its own thread: scoring happens on others.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { app, listeners, tls } = self;
        let failed = |what| move |source| ServerError { what, source };
        let limits = app.config.limits();
        let open = app.metrics.connections.clone();
        let front = Front { listeners: listeners.scoring, tls: tls.clone(), limits, open };
        let stop = async {
            stop.await;
            app.drain();
        };
        let mut front = pin!(front.serve(|| Scoring(Arc::clone(&app)), stop));

        // The admin answers until the end.
        let (end_admin, admin_ends) = signal::channel(false);
        let admin = listeners.admin.map(|listener| {
            let door = Door::of(&listener);
            let reach = if listener.is_local() { Reach::ThisMachine(door) } else { Reach::Beyond };
            serve_few(listener, Admin { app: Arc::clone(&app), reach }, admin_ends)
        });
        let admin = admin.transpose().map_err(failed("listen for the admin"))?;
        let admin = async {
            match admin {
                Some(admin) => admin.await,
                None => std::future::pending().await,
            }
        };
        let beside = async { tokio::join!(admin, watch(Arc::clone(&app), tls)) };
        let ended = tokio::select! {
            ended = &mut front => ended,
            _ = beside => Ok(()),
        };
        let _ = end_admin.send(true);
        ended.map_err(failed("listen"))
    }
}
