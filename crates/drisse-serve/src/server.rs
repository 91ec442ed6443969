//! The life of one scoring server: build, load and serve, end.

use crate::config::Config;
use crate::engines::EngineTable;
use crate::error::ServeError;
use crate::inspect::{InspectedModel, inspect_all};
use crate::listen::{Endpoints, listen, unix_sockets};
use crate::loader::{Loader, ServedModel, load_all};
use drisse_core::crash_point;
use drisse_net::{AccessLog, Tls};
use drisse_scoring::{App, Keys, Server};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest wait for the access log at the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A server whose listeners are bound and whose models are inspected.
pub struct ScoringServer {
    app: Arc<App>,
    server: Server,
    models: Vec<InspectedModel>,
    loader: Loader,
    endpoints: Endpoints,
    access_log: Option<Arc<AccessLog>>,
    /// The Unix sockets to remove at the end.
    sockets: Vec<PathBuf>,
    /// Whether an engine is loading a model.
    in_engine: Arc<AtomicBool>,
}

/// Builds a server: inspects the models, verifies signatures, reads the keys and binds the listeners. No model is loaded
/// and no request is answered yet. Blocks.
///
/// # Errors
/// [`ServeError`] if anything that the config names cannot be used.
pub fn build(mut config: Config, engines: EngineTable) -> Result<ScoringServer, ServeError> {
    let models = inspect_all(&config, &engines)?;
    let keys = config.keys.as_deref().map(Keys::open).transpose()?;
    let tls = config.tls.as_ref().map(|files| Tls::open(&files.certificate, &files.key)).transpose()?;
    let access_log = config.access_log.as_deref().map(AccessLog::open).transpose();
    let access_log = access_log.map_err(ServeError::AccessLog)?.map(Arc::new);
    config.scoring.access_log = access_log.clone();
    let (listeners, endpoints) = listen(&config)?;
    crash_point("a server listens");
    let app = App::new(config.scoring.clone(), keys).map_err(ServeError::Threads)?;
    let server = Server::new(Arc::clone(&app), listeners, tls);
    let in_engine = Arc::new(AtomicBool::new(false));
    let sockets = unix_sockets(&config);
    let loader = Loader::new(config, engines, &models, Arc::clone(&in_engine));
    Ok(ScoringServer { app, server, models, loader, endpoints, access_log, sockets, in_engine })
}

impl ScoringServer {
    /// Returns where the server listens.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Serves until `stop` completes or the models cannot be loaded, answers the current requests, and cleans up. The
    /// server answers while it loads the models, so that probes see that it is live and not ready; `ready` is called on
    /// the loader's thread once all models are loaded. Must be awaited on a runtime of its own thread.
    ///
    /// Dropping the future stops the server at once, without cleaning up.
    ///
    /// # Errors
    /// [`ServeError`] if an engine or a model cannot be loaded, or if the server fails.
    pub async fn run(
        self,
        ready: impl FnOnce(&[ServedModel]) + Send + 'static,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let Self { app, server, models, loader, access_log, sockets, in_engine, .. } = self;
        let (sender, loading) = oneshot::channel();
        let is_loading = Arc::clone(&in_engine);
        let load = move || {
            let result = load_all(&app, models, loader).map(|models| {
                crash_point("a server has its models");
                if let Some(models) = models {
                    ready(&models);
                }
            });
            in_engine.store(false, SeqCst);
            // The receiver is gone if the server was stopped before it was ready.
            let _ = sender.send(result);
        };
        let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(load);
        let loader = thread.map_err(ServeError::Threads)?;
        let mut failed = Ok(());
        let stop = async {
            tokio::select! {
                error = load_failure(loading) => failed = Err(error),
                () = stop => {}
            }
        };
        let served = server.run(stop).await;
        crash_point("a server has answered everything");
        access_log.iter().for_each(|log| log.flush(LAST_LINES));
        for socket in sockets {
            // Another process may have removed it already.
            let _ = std::fs::remove_file(socket);
        }
        // ONNX Runtime crashes if the process ends while it loads a model; a download can be interrupted.
        if is_loading.load(SeqCst) {
            tracing::info!("waiting for the model that is being loaded");
            // A panic there is reported by its own thread.
            let _ = loader.join();
        }
        served?;
        failed
    }
}

/// Completes if loading fails, and never if it succeeds.
async fn load_failure(loading: oneshot::Receiver<Result<(), ServeError>>) -> ServeError {
    match loading.await {
        Ok(Ok(())) => std::future::pending().await,
        Ok(Err(error)) => error,
        Err(_) => ServeError::Panicked,
    }
}

impl std::fmt::Debug for ScoringServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScoringServer").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}
