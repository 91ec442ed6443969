//! What requests of several cores meet at. `tests/races.rs` puts shuttle's in its place, and so decides who goes
//! on when.

pub(crate) use std::sync::atomic::AtomicU32;
pub(crate) use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
pub(crate) use tokio::time::timeout_at;
