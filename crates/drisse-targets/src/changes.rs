//! Broadcasts that the replicas of a service have changed.

use drisse_core::{BoxStream, ServiceName};
use futures_util::StreamExt;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// The number of queued changes. A slow listener misses older ones; it checks all services regularly anyway.
const BEHIND: usize = 4096;

/// Sends the names of changed services to all listeners.
#[derive(Clone, Debug)]
pub(crate) struct Changes(broadcast::Sender<ServiceName>);

impl Default for Changes {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Changes {
    pub(crate) fn tell(&self, service: &ServiceName) {
        // There may be no listener.
        let _ = self.0.send(service.clone());
    }

    pub(crate) fn stream(&self) -> BoxStream<ServiceName> {
        Box::pin(BroadcastStream::new(self.0.subscribe()).filter_map(async |change| change.ok()))
    }
}
