//! ONNX Runtime: finds or fetches its library, and runs models with one environment per process and one session per
//! model.

mod arena;
mod fetch;
mod library;
mod locale;
mod message;
mod session;
mod value;

pub use fetch::{FetchError, fetch};
pub use library::{LibraryError, PINNED, cache_folder, disable_telemetry, find, probe};
pub use locale::{LocaleState, locale, provide_locale};

use drisse_core::{Engine, EngineOptions, Error, LoadedPackage, Result, Scorer, UnavailableError};
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use session::Threads;
use std::path::Path;
use std::sync::Arc;

/// The engine `onnx`. A process has one library and one thread pool, so it creates one engine.
///
/// ```no_run
/// use drisse_core::Engine;
/// use drisse_engines::onnx::{OnnxEngine, cache_folder, fetch, find};
///
/// let cache = cache_folder();
/// let library = match find(None, &cache)? {
///     Some(library) => library,
///     None => fetch(&cache)?,
/// };
/// let engine = OnnxEngine::new(&library, 2)?;
/// assert_eq!(engine.name(), "onnx");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OnnxEngine {
    environment: Environment,
    threads: usize,
}

impl OnnxEngine {
    /// Loads the library at `path`, with a pool of `threads` threads.
    ///
    /// # Errors
    /// [`LibraryError::Refused`] if the library is not ONNX Runtime, is too old or cannot be initialized.
    pub fn new(path: &Path, threads: usize) -> Result<Self, LibraryError> {
        probe(path)?;
        let refused = |why: String| LibraryError::Refused { path: path.to_owned(), why };
        let builder = ort::init_from(path).map_err(|error| refused(error.to_string()))?;
        let pool = GlobalThreadPoolOptions::default()
            .with_intra_threads(threads)
            .and_then(|pool| pool.with_inter_threads(1))
            // Spinning threads take the CPU time that the next request needs.
            .and_then(|pool| pool.with_spin_control(false))
            .map_err(|error| refused(message::one_line(error.message())))?;
        let environment = builder
            .with_name("drisse")
            .with_telemetry(false)
            .with_global_thread_pool(pool)
            .with_logger(Arc::new(|level, category, _, location, message| {
                log(level, category, location, message)
            }))
            .build()
            .map_err(|error| refused(message::one_line(error.message())))?;
        arena::register(&environment, arena::allowance())
            .map_err(|error| refused(message::one_line(error.message())))?;
        Ok(Self { environment, threads })
    }
}

/// Writes a line of ONNX Runtime's own log. A client gets the error of its request in the response; at a high level it
/// could fill the log, so only fatal errors are logged by default.
fn log(level: LogLevel, category: &str, location: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(category, location, "{message}"),
        LogLevel::Error | LogLevel::Warning => tracing::debug!(category, location, "{message}"),
        LogLevel::Info | LogLevel::Verbose => tracing::trace!(category, location, "{message}"),
    }
}

impl Engine for OnnxEngine {
    fn name(&self) -> &'static str {
        "onnx"
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    fn check(&self) -> Result<(), UnavailableError> {
        Ok(())
    }

    fn memory(&self) -> usize {
        arena::allowance()
    }

    fn load(&self, model: &LoadedPackage, options: &EngineOptions) -> Result<Box<dyn Scorer>> {
        options.check(self.name(), &["cpu"], &[])?;
        let threads = Threads { all: self.threads, of_a_run: options.threads.unwrap_or(self.threads).max(1) };
        let session = session::Session::load(&self.environment, model, threads)
            .map_err(|error| Error::invalid(message::load_failure(error.message())))?;
        Ok(Box::new(session))
    }
}
