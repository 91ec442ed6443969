//! The synchronization primitives that requests of several cores share. `tests/races` replaces them by those of
//! shuttle, to try the interleavings of steps.

pub(crate) use std::sync::atomic::AtomicU32;
pub(crate) use std::sync::{Mutex, MutexGuard};
pub(crate) use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};
pub(crate) use tokio::time::timeout_at;
