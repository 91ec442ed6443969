//! The scoring server, complete by itself: HTTP/1.1 and HTTP/2 on one port, keys, TLS, admission,
//! queue, engine, metrics, and an admin listener of its own.
//!
//! ```text
//! connection → router → keys → body → decode (drisse-wire) → score ─┬─ inline, a tiny model
//!                                                                  └─ queue → worker → engine
//! ```

mod app;
mod batching;
mod config;
mod grpc;
mod http;
mod keys;
mod memory;
mod metrics;
mod model;
mod profile;
mod repository;
mod residents;
mod run;
mod score;
mod server;
mod shared_memory;
mod sync;
mod traced;
mod trial;
mod tune;
mod warm;
mod watch;
mod workers;
#[cfg(test)]
mod workers_tests;

pub use app::App;
pub use config::Config;
pub use keys::{Keys, KeysError};
pub use model::ModelSpec;
pub use profile::{Point, Profile, profile};
pub use repository::Repository;
pub use residents::Resident;
pub use server::{Listeners, Server, ServerError};
pub use trial::Trial;
pub use tune::{Tuner, Tuning};
