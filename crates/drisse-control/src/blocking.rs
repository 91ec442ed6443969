//! Work that waits for the disk, with a panic as an error of the operation that it belongs to.

use crate::error::{ControlError, Result};

/// Runs `work` off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(ControlError::internal("a thread panicked").because(&error)))
}
