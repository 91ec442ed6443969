//! A flag that ends work early once its result is not needed any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

type Hook = Box<dyn Fn() + Send>;

/// A cancellation flag. One side raises it; the other polls it or registers a hook. Clones share the flag, and any
/// thread may use them.
///
/// ```
/// use drisse_core::Cancel;
///
/// let cancel = Cancel::new();
/// let worker = std::thread::current();
/// let _hook = cancel.on_cancel(move || worker.unpark());
/// cancel.clone().cancel();
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Clone)]
pub struct Cancel(Option<Arc<State>>);

#[derive(Default)]
struct State {
    raised: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

/// Keeps a hook of [`Cancel::on_cancel`] registered. Dropping it removes the hook, and waits for a hook that is
/// running, so that afterwards the hook uses nothing any more.
#[must_use]
pub struct OnCancel<'a>(&'a Cancel);

impl Cancel {
    /// Creates a flag that is not raised.
    #[expect(clippy::new_without_default, reason = "a default could also be a flag that is never raised")]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// Creates a flag that cannot be raised, for work that always runs to its end. Does not allocate.
    pub const fn never() -> Self {
        Self(None)
    }

    /// Returns whether the flag can be raised.
    pub fn can_be_cancelled(&self) -> bool {
        self.0.is_some()
    }

    /// Raises the flag and runs the hook on this thread, if there is one. Raising it again has no effect.
    pub fn cancel(&self) {
        let Some(state) = &self.0 else { return };
        state.raised.store(true, Ordering::Release);
        if let Some(hook) = state.lock().take() {
            hook();
        }
    }

    /// Returns whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.raised.load(Ordering::Acquire))
    }

    /// Registers `hook`, which runs when the flag is raised: on the raising thread, or here if it is raised already. A
    /// flag has one hook: a second registration replaces the first.
    pub fn on_cancel(&self, hook: impl Fn() + Send + 'static) -> OnCancel<'_> {
        let Some(state) = &self.0 else { return OnCancel(self) };
        let mut slot = state.lock();
        // Checked under the lock: `cancel` either finds the hook or has raised the flag before.
        if self.is_cancelled() {
            hook()
        } else {
            *slot = Some(Box::new(hook))
        }
        drop(slot);
        OnCancel(self)
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Hook>> {
        self.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for OnCancel<'_> {
    fn drop(&mut self) {
        if let Some(state) = &self.0.0 {
            state.lock().take();
        }
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_hook_is_called_once_whether_set_before_or_after() {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = || {
            let calls = Arc::clone(&calls);
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
            }
        };
        let cancel = Cancel::new();
        let guard = cancel.on_cancel(count());
        cancel.cancel();
        cancel.cancel();
        drop(guard);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        drop(cancel.on_cancel(count()));
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_hook_that_was_dropped_is_not_called() {
        let cancel = Cancel::new();
        drop(cancel.on_cancel(|| panic!("called after it was dropped")));
        cancel.cancel();
    }
}
