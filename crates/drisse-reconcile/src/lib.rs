//! The reconciler: brings what runs to the desired state. One task per service, woken by changes, looks at everything
//! again in each round, so that a missed event does no harm.
//!
//! It depends on three ports, and on no database, HTTP server or process:
//!
//! ```text
//! Desired (what is wanted) ──► Reconciler ──► Routes (where requests go)
//!                                  │
//!                                  └────────► Target (where it runs)
//! ```
//!
//! The control plane implements [`Desired`] by its database and [`Routes`] by its gateway; [`memory`] implements both
//! for tests. A device agent brings implementations of its own.
#![warn(missing_docs)]

mod death;
mod desired;
mod document;
mod error;
pub mod memory;
mod observed;
mod orphans;
mod reconciler;
mod reconcilers;
mod routes;

pub use death::explain;
pub use desired::{Deletion, Desired, DesiredService, Status};
pub use error::ReconcileError;
pub use observed::{Observed, RoundError};
pub use reconcilers::{Handle, Ports, Reconcilers, Targets};
pub use routes::Routes;
