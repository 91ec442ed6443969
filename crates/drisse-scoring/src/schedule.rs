//! How runs of models share the machine: queues in front of worker threads, requests that share a run, and the trials
//! that find out what suits a model.
//!
//! ```text
//! request ─┬─ inline ──────────────────────────► Run ─► Scorer
//!          └─ QueuedRequest ─► queue ─► worker ─► Run ─► Scorer
//! ```

mod approx_eq;
mod batch_size;
mod batching;
mod perturb;
mod profile;
mod row_probe;
mod run;
mod runner;
mod trial;
mod tune;
mod warm;
mod workers;
#[cfg(test)]
mod workers_tests;

pub(crate) use batching::Batching;
pub use profile::{Point, Profile, Profiling, profile};
pub(crate) use run::{Mode, QueuedRequest, ResponseSink, Run};
pub(crate) use runner::{Learned, Runner};
pub use trial::Trial;
pub use tune::{Tuner, Tuning};
pub(crate) use warm::warm_up;
pub(crate) use workers::Workers;
