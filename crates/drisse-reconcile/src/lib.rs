//! The reconciler brings services to their desired state. Each service has a task that changes wake. The task observes
//! the whole state in each round, so that a missed event does no harm.
//!
//! The reconciler depends on three ports, and not on a database, an HTTP server or processes:
//!
//! ```text
//! Desired (desired state) ──► Reconciler ──► Routes (where requests go)
//!                                 │
//!                                 └────────► Target (where services run)
//! ```
//!
//! The control plane implements [`Desired`] with its database and [`Routes`] with its gateway. [`memory`] implements
//! both for tests. A device agent can have its own implementations.
#![warn(missing_docs)]

mod death;
mod desired;
mod document;
mod error;
pub mod memory;
mod observed;
mod reconciler;
mod reconcilers;
mod routes;

pub use death::explain;
pub use desired::{Deletion, Desired, DesiredService, Status};
pub use error::ReconcileError;
pub use observed::{Observed, RoundError};
pub use reconcilers::{Handle, Ports, Reconcilers, Targets};
pub use routes::Routes;
