//! The life of a server: serve on one runtime per core, beside the admin listener; drain; end.

use crate::admin::{Admin, Reach};
use crate::app::App;
use crate::body::{Response, ResponseBody};
use crate::exchange::Exchange;
use crate::watch::watch;
use crate::{grpc, http};
use drisse_net::{Handler, HttpServer, Listener, ListenerKind, Tls, serve_small};
use futures_util::future::OptionFuture;
use hyper::Request;
use hyper::body::Incoming;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch as signal;

/// The listeners of a server.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For scoring.
    pub scoring: Vec<Listener>,
    /// For operators, probes and Prometheus. Requests that change something are answered only on a Unix socket or on
    /// loopback.
    pub admin: Option<Listener>,
}

/// A server that is ready to run.
///
/// ```no_run
/// use drisse_net::{Listener, bind_tcp};
/// use drisse_scoring::{App, Config, Listeners, Server};
///
/// let app = App::new(Config::default(), None)?;
/// let scoring = vec![Listener::Tcp(bind_tcp("127.0.0.1:8000".parse()?)?)];
/// let server = Server::new(app, Listeners { scoring, admin: None }, None);
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// runtime.block_on(server.run(std::future::pending()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

/// Answers the requests of every connection, on all protocols.
#[derive(Clone)]
struct ScoringHandler(Arc<App>);

impl Handler for ScoringHandler {
    type Body = ResponseBody;

    async fn handle(self, request: Request<Incoming>) -> Response {
        let is_call = drisse_wire::grpc::is_call(&request);
        let (head, body) = request.into_parts();
        match is_call {
            true => grpc::handle(Exchange::begin(&self.0, &head), &head, body).await,
            false => http::handle(&self.0, &head, body).await,
        }
    }
}

impl App {
    /// Returns what answers requests, for [`drisse_net::serve_connection`].
    #[doc(hidden)]
    pub fn handler(self: &Arc<Self>) -> impl Handler<Body: Unpin> + use<> {
        ScoringHandler(Arc::clone(self))
    }
}

impl Server {
    /// Creates a server for `app`. With `tls`, scoring is served over TLS; the admin listener never is.
    pub fn new(app: Arc<App>, listeners: Listeners, tls: Option<Tls>) -> Self {
        Self { app, listeners, tls: tls.map(Arc::new) }
    }

    /// Serves until `stop` completes, then answers the current requests and returns. Must be awaited on a runtime of
    /// its own thread; requests are served on other threads. Dropping the future stops the server at once.
    ///
    /// # Errors
    /// Returns an error if a listener cannot be used or a thread cannot be started.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { app, listeners, tls } = self;
        let failed = |what| move |source| ServerError { what, source };
        let limits = app.config.limits.clone();
        let open = app.metrics.connections.clone();
        let front = HttpServer { listeners: listeners.scoring, tls: tls.clone(), limits, open };
        let stop = async {
            stop.await;
            app.drain();
        };
        let mut front = pin!(front.serve(|| ScoringHandler(Arc::clone(&app)), stop));

        // The admin listener answers until the last request has ended.
        let (end_admin, admin_ends) = signal::channel(false);
        let admin = listeners.admin.map(|listener| {
            let kind = ListenerKind::of(&listener);
            let reach = if listener.is_local() { Reach::ThisMachine(kind) } else { Reach::Beyond };
            serve_small(listener, Admin { app: Arc::clone(&app), reach }, admin_ends)
        });
        let admin = OptionFuture::from(admin.transpose().map_err(failed("listen for the admin"))?);
        let beside = async { tokio::join!(admin, watch(Arc::clone(&app), tls)) };
        let ended = tokio::select! {
            ended = &mut front => ended,
            _ = beside => Ok(()),
        };
        let _ = end_admin.send(true);
        ended.map_err(failed("listen"))
    }
}
