//! The control plane of a workspace. It keeps the desired state in a database, brings the observed state to it, and
//! serves a REST API on a Unix socket.
//!
//! ```text
//! api → operations → desired state (database) → reconcile, one task per service ─┬─► targets
//!                          ▲                                                     └─► gateway (routes)
//!                          └──────────────── observed state ◄────────────────────────┘
//! ```

mod api;
mod blocking;
mod change;
mod claims;
mod control;
mod db;
mod desired;
mod distribution;
mod error;
mod gateway;
mod health;
mod keys;
mod metrics;
mod models;
mod operations;
mod parts;
mod progress;
mod restore;
mod run;
mod running;
mod services;
mod stop;
mod targets;
#[cfg(test)]
mod tests;
mod workspace;

pub use api::openapi;
pub use change::Change;
pub use error::RunError;
pub use gateway::GatewayChange;
pub use health::{Health, examine};
pub use restore::{Restored, restore};
pub use run::{Config, TcpApi, run, serve_at_rest};
pub use targets::{Attach, Targets};
pub use workspace::{Holder, Lock, Workspace};
