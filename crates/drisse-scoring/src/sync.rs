//! What threads meet at. `tests/races.rs` puts shuttle's in its place, and so decides who runs when.

pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
pub(crate) use std::thread::{Builder, JoinHandle};
