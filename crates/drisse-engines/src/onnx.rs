//! ONNX Runtime: the library found or fetched, one environment per process, one session per model.

mod arena;
mod fetch;
mod library;
mod message;
mod session;
mod value;

pub use fetch::{FetchError, fetch};
pub use library::{LibraryError, PINNED, cache_folder, disable_telemetry, find, probe};

use drisse_core::{Engine, EngineOptions, Error, LoadedPackage, Result, Scorer, Unavailable};
use ort::environment::{Environment, GlobalThreadPoolOptions};
use ort::logging::LogLevel;
use session::Threads;
use std::path::Path;
use std::sync::Arc;

/// The engine `onnx`. Its thread pool and its library are the process's: make one.
#[derive(Debug)]
pub struct OnnxEngine {
    environment: Environment,
    threads: usize,
}

impl OnnxEngine {
    /// Loads the library at `path`, with `threads` threads for the parts of one run.
    pub fn new(path: &Path, threads: usize) -> Result<Self, LibraryError> {
        probe(path)?;
        let refused = |why: String| LibraryError::Refused { path: path.to_owned(), why };
        let builder = ort::init_from(path).map_err(|error| refused(error.to_string()))?;
        let pool = GlobalThreadPoolOptions::default()
            .with_intra_threads(threads)
            .and_then(|pool| pool.with_inter_threads(1))
            // Spinning threads take the core the next request needs.
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

/// ONNX Runtime's own log. What fails a request is told to its sender; here it would only
/// let a client fill the log, so all but the fatal is for those who ask for it.
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

    fn check(&self) -> Result<(), Unavailable> {
        Ok(())
    }

    fn memory(&self) -> usize {
        arena::allowance()
    }

    fn load(&self, model: &LoadedPackage, options: &EngineOptions) -> Result<Box<dyn Scorer>> {
        let threads = Threads { all: self.threads, of_a_run: options.threads.unwrap_or(self.threads).max(1) };
        let session = session::Session::load(&self.environment, model, threads)
            .map_err(|error| Error::invalid(message::load_failure(error.message())))?;
        Ok(Box::new(session))
    }
}
