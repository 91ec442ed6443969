//! What requests of several cores synchronize by. `tests/races` replaces it by shuttle's, to try the orders of steps.

pub(crate) use std::sync::atomic::AtomicU32;
pub(crate) use std::sync::{Mutex, MutexGuard};
pub(crate) use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
pub(crate) use tokio::time::timeout_at;
