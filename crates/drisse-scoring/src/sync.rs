//! Locks and threads. `tests/races.rs` replaces them by shuttle's, which chooses the order of the threads' steps.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub(crate) use std::thread::{Builder, JoinHandle};
