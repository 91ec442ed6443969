//! The signal that the control plane stops.

use drisse_wire::control::Shutdown;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;

/// Whether and how the control plane stops. Clones share the signal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    how: Arc<OnceLock<Shutdown>>,
    token: CancellationToken,
}

impl Stop {
    /// Stops the control plane. The first call decides how.
    pub(crate) fn end(&self, how: Shutdown) {
        let _ = self.how.set(how);
        self.token.cancel();
    }

    /// Waits until the control plane must stop, and returns how. Cancel-safe.
    pub(crate) async fn ended(&self) -> Shutdown {
        self.token.cancelled().await;
        // `how` is set before the token is canceled.
        self.how.get().copied().unwrap_or(Shutdown::Handover)
    }

    /// Returns a token for tasks that end with the control plane, no matter how it stops.
    pub(crate) fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
