//! The table of engines, from which each model chooses by name.

use drisse_core::Engine;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

/// Starts an engine whose files are there. Blocks; the process must not end meanwhile.
pub type StartEngine = Box<dyn FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send>;

type PrepareEngine = Box<dyn Fn() -> Result<StartEngine, EngineError> + Send + Sync>;

/// The engines that models can choose, by name.
///
/// ```
/// use drisse_engines::fake::FakeEngine;
/// use drisse_serve::EngineTable;
///
/// let engines = EngineTable::default().with("fake", || Ok(Box::new(|| Ok(Box::new(FakeEngine::default())))));
/// assert_eq!(engines.start("fake")?.name(), "fake");
/// assert_eq!(engines.start("npu").unwrap_err().to_string(), "engine `npu` not found; known engines: `fake`");
/// # Ok::<(), drisse_serve::EngineError>(())
/// ```
#[derive(Default)]
pub struct EngineTable(BTreeMap<&'static str, PrepareEngine>);

/// Why an engine cannot be used, and what to do next.
#[derive(Debug)]
pub struct EngineError {
    source: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

/// The error for an engine that is not in the table.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("engine `{name}` not found; known engines: {}", known.join(", "))]
pub struct UnknownEngineError {
    name: String,
    known: Vec<String>,
}

impl EngineTable {
    /// Adds an engine. `prepare` finds or fetches its files, and returns what starts it.
    #[must_use]
    pub fn with(
        mut self,
        name: &'static str,
        prepare: impl Fn() -> Result<StartEngine, EngineError> + Send + Sync + 'static,
    ) -> Self {
        self.0.insert(name, Box::new(prepare));
        self
    }

    /// Checks that there is an engine of this name.
    ///
    /// # Errors
    /// [`UnknownEngineError`], which names the engines of the table.
    pub fn check(&self, name: &str) -> Result<(), UnknownEngineError> {
        self.entry(name).map(drop)
    }

    /// Finds or fetches the files of an engine, and returns what starts it.
    ///
    /// # Errors
    /// [`EngineError`] if there is no engine of this name, or if its files cannot be found or fetched.
    pub fn prepare(&self, name: &str) -> Result<StartEngine, EngineError> {
        self.entry(name).map_err(|error| EngineError::new(error, None))?()
    }

    /// Prepares and starts an engine. A process starts each engine at most once.
    ///
    /// # Errors
    /// [`EngineError`] if the engine cannot be prepared or started.
    pub fn start(&self, name: &str) -> Result<Box<dyn Engine>, EngineError> {
        self.prepare(name)?()
    }

    fn entry(&self, name: &str) -> Result<&PrepareEngine, UnknownEngineError> {
        self.0.get(name).ok_or_else(|| UnknownEngineError {
            name: name.chars().take(80).collect(),
            known: self.0.keys().map(|known| format!("`{known}`")).collect(),
        })
    }
}

impl fmt::Debug for EngineTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl EngineError {
    /// Creates an error of this reason; `hint` says what to do next.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>, hint: Option<String>) -> Self {
        Self { source: source.into(), hint }
    }

    /// Returns what to do next.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for EngineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}
