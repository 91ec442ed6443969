//! Exports traces to a collector by OTLP over HTTP.
//!
//! Source: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.

use super::{Traces, otlp};
use crate::http::{Address, Ask};
use hyper::Method;
use hyper::header::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The version of Drisse: the scope of the spans, and an attribute of their resource.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the last export may take when the server ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// The pause before the first retry. It doubles with each retry.
const RETRY: Duration = Duration::from_millis(200);

/// Sends traces to a collector.
#[derive(Debug)]
pub struct Exporter {
    pub(super) traces: Arc<Traces>,
    pub(super) collector: Address,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) resource: Vec<u8>,
    pub(super) timeout: Duration,
    pub(super) delay: Duration,
}

/// A running exporter.
#[derive(Debug)]
pub struct Exporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Returns the buffer of the spans to export.
    pub fn traces(&self) -> Arc<Traces> {
        Arc::clone(&self.traces)
    }

    /// Starts to export spans, on the current runtime.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    pub fn start(self) -> Exporting {
        let (stop, mut stopped) = oneshot::channel();
        #[expect(clippy::disallowed_methods, reason = "`Exporting` owns the task")]
        let task = tokio::spawn(async move {
            let mut works = true;
            loop {
                let (spans, last) = tokio::select! {
                    spans = self.traces.next(self.delay) => (spans, false),
                    _ = &mut stopped => (self.traces.take(), true),
                };
                if !spans.is_empty() {
                    works = self.export(&spans, works).await;
                }
                if last {
                    return;
                }
            }
        });
        Exporting { stop, task }
    }

    /// Sends spans, and returns whether that succeeded. Logs a change of this from `worked`, the previous result.
    async fn export(&self, spans: &[u8], worked: bool) -> bool {
        let body = otlp::request(&self.resource, VERSION, spans);
        let tried = tokio::time::timeout(self.timeout, self.send(&body)).await;
        let why = match tried {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some(format!("no response within {:?}", self.timeout)),
        };
        let collector = format!("{}{}", self.collector, self.path);
        match (&why, worked) {
            (Some(why), true) => tracing::warn!(collector, "cannot export traces, they are lost: {why}"),
            (None, false) => tracing::info!(collector, "traces are exported again"),
            _ => {}
        }
        let dropped = self.traces.dropped();
        if dropped > 0 {
            tracing::warn!(requests = dropped, "traces were dropped: the buffer was full");
        }
        why.is_none()
    }

    /// Sends a body, with a few retries. A body that the collector refuses is not sent again.
    async fn send(&self, body: &[u8]) -> Result<(), String> {
        let mut pause = RETRY;
        loop {
            let ask = Ask::send(Method::POST, &self.path, body.to_vec()).with(self.headers.clone());
            let why = match self.collector.ask(ask).await {
                Ok((200..=299, _)) => return Ok(()),
                Ok((status @ (429 | 502..=504), _)) => format!("it answered {status}"),
                Ok((status, _)) => return Err(format!("it answered {status}")),
                Err(error) => error.to_string(),
            };
            if pause > 4 * RETRY {
                return Err(why);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

impl Exporting {
    /// Sends the remaining spans and stops.
    pub async fn finish(self) {
        let _ = self.stop.send(());
        // Spans that are not exported in time are lost.
        let _ = tokio::time::timeout(FAREWELL, self.task).await;
    }
}
