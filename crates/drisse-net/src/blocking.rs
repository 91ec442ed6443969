//! File operations off the threads that accept, route and score: a slow disk delays only the task that asked.

use std::panic::resume_unwind;

/// Runs `work`, which may wait for a disk, on the runtime's blocking pool and returns its result.
///
/// Every file operation of a running server goes through here, because one `fsync` of a throttled volume takes
/// seconds, and a thread that waits for it accepts no connection and answers no probe.
///
/// Dropping the future does not stop `work`: it runs to its end, and its result is discarded. A panic of `work`
/// is resumed in the caller. Must be called on a tokio runtime.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // Canceled: the runtime is shutting down, and drops the caller too.
            Err(_) => std::future::pending().await,
        },
    }
}
