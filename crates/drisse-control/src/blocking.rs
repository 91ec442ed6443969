//! Runs work that waits for the disk. A panic becomes an error of the operation.

use crate::error::{ControlError, Result};

/// Runs `work` on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(ControlError::internal("a thread panicked").because(&error)))
}
