//! Telling everybody who listens that a service's replicas changed.

use drisse_core::{BoxStream, ServiceName};
use futures_util::StreamExt;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// A listener this far behind looks at everything again anyway.
const BEHIND: usize = 4096;

/// Where changes are told.
#[derive(Clone, Debug)]
pub(crate) struct Changes(broadcast::Sender<ServiceName>);

impl Changes {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    pub(crate) fn tell(&self, service: &ServiceName) {
        // Nobody listening is fine.
        let _ = self.0.send(service.clone());
    }

    pub(crate) fn stream(&self) -> BoxStream<ServiceName> {
        Box::pin(BroadcastStream::new(self.0.subscribe()).filter_map(async |change| change.ok()))
    }
}
