//! The control plane of a workspace: what is wanted is kept in a database, what is there is brought to
//! it, and a REST API on a Unix socket tells and changes both.
//!
//! ```text
//! api → operations → what is wanted (database) → reconcile, one task per service ─┬─► targets
//!                          ▲                                                      └─► gateway (routes)
//!                          └──────────────── what is seen ◄───────────────────────────┘
//! ```

mod api;
mod blocking;
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
pub use gateway::GatewayChange;
pub use health::{Health, examine};
pub use restore::{Restored, restore};
pub use run::{Change, Config, RunError, TcpApi, run};
pub use targets::{Attach, Targets};
pub use workspace::{Lock, Workspace};
