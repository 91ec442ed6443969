//! What all connections share: the models, the keys, the limits, the metrics.

use crate::config::Config;
use crate::keys::Keys;
use crate::memory::BodyMemory;
use crate::metrics::Metrics;
use crate::models::{LoadedModel, Models, Repository, Resident, Residents};
use crate::shared_memory::{RequestRegions, SharedMemory};
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::ids::RequestIds;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};

/// The state of a server, shared by all its connections.
///
/// Any thread may call any method.
///
/// ```
/// use drisse_scoring::{App, Config};
///
/// let app = App::new(Config { workers: 2, ..Config::default() }, None)?;
/// // `App::add` is called here for each loaded model.
/// app.set_ready();
/// assert!(!app.is_draining());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct App {
    pub(crate) config: Config,
    pub(crate) keys: Option<Keys>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memory: BodyMemory,
    pub(crate) shared_memory: SharedMemory,
    pub(crate) models: Arc<Models>,
    /// Tells the server's process from every other.
    pub(crate) nonce: String,
    draining: AtomicBool,
    pub(crate) request_ids: RequestIds,
}

impl App {
    /// Creates a server without models, and starts the threads that run models. Without `keys` every client may score.
    ///
    /// # Errors
    /// Returns the system's error if a thread cannot be started.
    pub fn new(config: Config, keys: Option<Keys>) -> std::io::Result<Arc<Self>> {
        let metrics = Arc::new(Metrics::new());
        let random = RandomState::new();
        Ok(Arc::new(Self {
            models: Arc::new(Models::new(&config, Arc::clone(&metrics))?),
            memory: BodyMemory::new(metrics.held_bytes.clone(), config.max_held),
            metrics,
            nonce: format!("{:016x}{:016x}", random.hash_one(1), random.hash_one(2)),
            shared_memory: SharedMemory::new(&config.shared_memory),
            draining: AtomicBool::new(false),
            request_ids: RequestIds::new(),
            config,
            keys,
        }))
    }

    /// Warms a loaded model up, then serves it instead of the model of the same name. Blocks during the warm-up, whose
    /// failure is only logged.
    pub fn add(&self, model: LoadedModel) {
        self.models.add(model);
    }

    /// Sets what loads models while the server runs; only the first call has an effect.
    pub fn set_repository(&self, repository: Box<dyn Repository>) {
        // Only the first call has an effect.
        let _ = self.models.repository.set(repository);
    }

    /// Makes these models load when they are first requested, within `bound` bytes of memory; only the first call has
    /// an effect, and it comes before [`set_ready`](Self::set_ready).
    pub fn load_on_demand(&self, models: Vec<Resident>, bound: u64) {
        // Only the first call has an effect.
        let _ = self.models.residents.set(Residents::new(models, bound));
    }

    /// Records that all models that the server starts with are loaded.
    pub fn set_ready(&self) {
        self.models.ready.store(true, Relaxed);
    }

    /// Makes the server not ready: it closes each connection after its next response.
    pub fn drain(&self) {
        self.draining.store(true, SeqCst);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.models.is_ready() && !self.is_draining()
    }

    /// Returns whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(SeqCst)
    }

    /// Returns the bytes of all bodies that are in memory.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> i64 {
        self.memory.in_use()
    }

    /// Refuses unless clients may load and unload models.
    pub(crate) fn check_model_control(&self) -> Result<()> {
        if self.config.model_control {
            return Ok(());
        }
        let message = "models are loaded and unloaded on the admin listener, or here with `drisse serve --model-control`";
        Err(Error::new(ErrorKind::Forbidden, message))
    }

    /// Returns V2's extensions that clients may use.
    pub(crate) fn extensions(&self) -> Vec<&'static str> {
        use drisse_wire::documents::{EXTENSIONS, MODEL_REPOSITORY, SHARED_MEMORY};
        let repository = self.config.model_control.then_some(MODEL_REPOSITORY);
        let shared_memory = self.shared_memory.is_on().then_some(SHARED_MEMORY);
        EXTENSIONS.into_iter().chain(repository).chain(shared_memory).collect()
    }

    /// Returns the shared memory as one request uses it.
    pub(crate) fn regions(&self) -> RequestRegions<'_> {
        RequestRegions::new(&self.shared_memory, &self.memory, self.config.max_body)
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("models", &self.models.loaded()).finish_non_exhaustive()
    }
}
