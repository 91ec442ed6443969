//! A request's span at the gateway: the parent of the one that its replica makes.

use crate::proxy::Shared;
use drisse_net::trace::{Span, Stages, TRACEPARENT, Traces, Value};
use hyper::http::request::Parts;
use std::sync::Arc;
use std::time::Instant;

/// A request that is traced.
pub(crate) struct Traced {
    traces: Arc<Traces>,
    span: Span,
    stages: Arc<Stages>,
}

impl Traced {
    /// The span of a request with this head, which carries it on; none where it is not sampled, which is told too.
    pub(crate) fn begin(shared: &Shared, head: &mut Parts, started: Instant) -> Option<Self> {
        let traces = shared.traces.as_ref()?;
        let span = traces.begin(&head.headers, started);
        // Told of one that is not sampled too: one decision for the whole way.
        head.headers.insert(TRACEPARENT, span.traceparent());
        let stages = Arc::new(span.stages()?);
        head.extensions.insert(Arc::clone(&stages));
        Some(Self { traces: Arc::clone(traces), span, stages })
    }

    /// Keeps the span of a request to `service` that was answered so.
    pub(crate) fn end(self, name: &str, service: &str, status: u16) {
        let attributes = [
            ("http.response.status_code", Value::Number(status.into())),
            ("drisse.service", Value::Text(service)),
        ];
        let failed = (status >= 500).then_some("");
        self.traces.end(&self.span, name, &attributes, failed, Some(&self.stages));
    }
}

/// Notes how long a request waited for a place at a replica, where it is traced.
pub(crate) fn waited(head: &Parts, since: Instant) {
    if let Some(stages) = head.extensions.get::<Arc<Stages>>() {
        stages.note("wait", since, Instant::now());
    }
}
