//! Telling work that nobody waits for it any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

type Hook = Box<dyn Fn() + Send>;

/// A flag one side raises and the other looks at, or hangs a hook on. Clones share it.
#[derive(Clone)]
pub struct Cancel(Option<Arc<State>>);

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
    #[expect(clippy::new_without_default, reason = "a default could as well be one that is never raised")]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// A flag that stays down, for work nobody will end early; costs nothing.
    pub const fn never() -> Self {
        Self(None)
    }

    /// Whether the flag may ever go up.
    pub fn can_be_cancelled(&self) -> bool {
        self.0.is_some()
    }

    /// Raises the flag and calls the hook, once.
    pub fn cancel(&self) {
        let Some(state) = &self.0 else { return };
        state.raised.store(true, Ordering::Release);
        if let Some(hook) = state.lock().take() {
            hook();
        }
    }

    /// Whether the flag is up.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|state| state.raised.load(Ordering::Acquire))
    }

    /// Calls `hook` when the flag goes up, at once if it is up already. One hook at a time.
    pub fn on_cancel(&self, hook: impl Fn() + Send + 'static) -> OnCancel<'_> {
        let Some(state) = &self.0 else { return OnCancel(self) };
        let mut slot = state.lock();
        // Looked at under the lock: `cancel` either finds the hook or has raised the flag before.
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
