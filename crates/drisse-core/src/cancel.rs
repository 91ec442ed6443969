//! Telling work that nobody waits for it any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

type Hook = Box<dyn Fn() + Send>;

/// A flag one side raises and the other looks at, or hangs a hook on. Clones share it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Default)]
struct State {
    raised: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

/// Keeps a hook of [`Cancel::on_cancel`] alive; dropping it takes the hook away, and waits
/// for one that is being called, so that what the hook uses may go afterwards.
#[must_use]
pub struct OnCancel<'a>(&'a Cancel);

impl Cancel {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag and calls the hook, once.
    pub fn cancel(&self) {
        self.0.raised.store(true, Ordering::Release);
        if let Some(hook) = self.lock().take() {
            hook();
        }
    }

    /// Whether the flag is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::Acquire)
    }

    /// Calls `hook` when the flag goes up, at once if it is up already. One hook at a time.
    pub fn on_cancel(&self, hook: impl Fn() + Send + 'static) -> OnCancel<'_> {
        let mut slot = self.lock();
        // Looked at under the lock: `cancel` either finds the hook or has raised the flag before.
        if self.is_cancelled() {
            hook()
        } else {
            *slot = Some(Box::new(hook))
        }
        drop(slot);
        OnCancel(self)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Hook>> {
        self.0.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for OnCancel<'_> {
    fn drop(&mut self) {
        self.0.lock().take();
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
