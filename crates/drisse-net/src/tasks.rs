//! An owner for tasks that run beside what started them.

use std::sync::{Mutex, PoisonError};
use tokio::task::JoinSet;

/// Owns tasks. A task ends by itself, or is aborted when its owner is dropped.
#[derive(Debug, Default)]
pub struct Tasks(Mutex<JoinSet<()>>);

impl Tasks {
    /// Starts a task on the current runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Forgets those that have ended.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}
