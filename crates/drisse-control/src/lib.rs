//! The control plane of a workspace: what is wanted is kept in a database, what is there is brought to
//! it, and a REST API on a Unix socket tells and changes both.
//!
//! ```text
//! api → operations → what is wanted (database) → reconcile, one task per service ─┬─► targets
//!                          ▲                                                      └─► gateway (routes)
//!                          └──────────────── what is seen ◄───────────────────────────┘
//! ```
#![warn(missing_docs)]

mod api;
mod control;
mod db;
mod deploy;
mod distribution;
mod gateway;
mod health;
mod keys;
mod metrics;
mod operations;
mod packages;
mod problem;
mod reconcile;
mod registry;
mod room;
mod settle;
mod signatures;
mod targets;
mod verify;
mod workspace;

pub use api::openapi;
pub use control::{Change, Config, ControlError, TcpApi, run};
pub use db::backup::{Restored, restore};
pub use gateway::GatewayChange;
pub use health::{Health, examine};
pub use targets::{Attach, Targets};
pub use workspace::{Lock, Workspace};
