//! The end of the control plane: told once, seen by everything.

use drisse_wire::control::Shutdown;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// Whether and how the control plane ends. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    how: Arc<OnceLock<Shutdown>>,
    token: CancellationToken,
}

impl Stop {
    /// Has the control plane end. The first call decides how.
    pub(crate) fn end(&self, how: Shutdown) {
        let _ = self.how.set(how);
        self.token.cancel();
    }

    /// Completes once the control plane is to end, with how. Cancel-safe.
    pub(crate) async fn ended(&self) -> Shutdown {
        self.token.cancelled().await;
        // The kind is set before the token.
        self.how.get().copied().unwrap_or(Shutdown::Handover)
    }

    /// For tasks that end with the control plane, however it ends.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
