//! The scoring server, complete by itself: HTTP/1.1, HTTP/2 and gRPC on one port, keys, TLS, admission, queues, the
//! engine seam, metrics, and an admin listener of its own.
//!
//! ```text
//! connection → Exchange ─┬─ http ─┐
//!                        └─ grpc ─┴→ decode (drisse-wire) → score ─┬─ inline, a tiny model
//!                                                                  └─ queue → worker → engine
//! ```
//!
//! [`App`] is the state, [`Server`] serves it. Dependencies of the modules point one way: `server` → `admin` → `http`,
//! `grpc` → `exchange`, `score` → `app` → `models` → `schedule`.

mod admin;
mod app;
mod body;
mod config;
mod exchange;
mod grpc;
mod http;
mod keys;
mod memory;
mod metrics;
mod models;
mod schedule;
mod score;
mod server;
mod shared_memory;
mod sync;
mod watch;

pub use app::App;
pub use config::Config;
pub use keys::{Keys, KeysError};
pub use models::{LoadedModel, ModelSpec, Repository, Resident};
pub use schedule::{Point, Profile, Profiling, Trial, Tuner, Tuning, profile};
pub use server::{Listeners, Server, ServerError};
