//! Tokio's semaphore and clock as far as groups use them, controlled by shuttle.

pub(crate) use shuttle::future::batch_semaphore::{AcquireError, TryAcquireError};
use shuttle::future::batch_semaphore::{BatchSemaphore, Fairness};
use shuttle::rand::Rng;
pub(crate) use shuttle::sync::atomic::AtomicU32;
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
use std::pin::pin;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Semaphore(BatchSemaphore);
#[derive(Debug)]
pub(crate) struct OwnedSemaphorePermit(Arc<Semaphore>);

impl Semaphore {
    pub(crate) const MAX_PERMITS: usize = usize::MAX >> 3;

    pub(crate) fn new(permits: usize) -> Self {
        Self(BatchSemaphore::new(permits, Fairness::StrictlyFair))
    }

    pub(crate) fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.0.try_acquire(1)?;
        Ok(OwnedSemaphorePermit(self))
    }

    pub(crate) async fn acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.0.acquire(1).await?;
        Ok(OwnedSemaphorePermit(self))
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }

    pub(crate) fn available_permits(&self) -> usize {
        self.0.available_permits()
    }
}

impl Drop for OwnedSemaphorePermit {
    fn drop(&mut self) {
        self.0.0.release(1);
    }
}

/// In one of five cases the time is over at once, else never.
pub(crate) async fn timeout_at<T>(_: tokio::time::Instant, future: impl Future<Output = T>) -> Result<T, ()> {
    if !shuttle::rand::thread_rng().gen_bool(0.2) {
        return Ok(future.await);
    }
    let mut future = pin!(future);
    let once = std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context)));
    match once.await {
        std::task::Poll::Ready(value) => Ok(value),
        std::task::Poll::Pending => Err(()),
    }
}
