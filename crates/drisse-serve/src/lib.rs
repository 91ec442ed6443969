//! One scoring server from paths: [`Config`] → [`build`] → [`ScoringServer::run`].
//!
//! [`build`] inspects the models, verifies their signatures, reads the keys and binds the listeners, so that mistakes
//! are reported before anything is loaded. [`ScoringServer::run`] serves at once, and loads the models meanwhile: finds
//! or makes the sample, tunes, loads, warms up. The engines come from the caller's [`EngineTable`].
//!
//! ```no_run
//! use drisse_engines::fake::FakeEngine;
//! use drisse_serve::{Config, EngineTable, ModelPath, build};
//!
//! let config = Config { models: vec![ModelPath::new("examples/wine")], ..Config::default() };
//! let engines = EngineTable::default().with("onnx", || Ok(Box::new(|| Ok(Box::new(FakeEngine::default())))));
//! let server = build(config, engines)?;
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! let ready = |models: &[_]| assert_eq!(models.len(), 1);
//! runtime.block_on(server.run(ready, std::future::pending()))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]

mod config;
mod engines;
mod error;
mod inspect;
mod listen;
mod loader;
mod sample;
mod server;

pub use config::{Config, Endpoint, ModelPath, TlsFiles, TrustFiles};
pub use engines::{EngineError, EngineTable, StartEngine, UnknownEngineError};
pub use error::ServeError;
pub use listen::Endpoints;
pub use loader::ServedModel;
pub use sample::{Sample, SampleOrigin, sample};
pub use server::{ScoringServer, build};
