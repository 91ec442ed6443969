//! The span of a request at the gateway, which is the parent of the replica's span.

use crate::protocol::{Arrival, Protocol};
use drisse_net::trace::{Span, Stages, TRACEPARENT, Traces, Value};
use hyper::http::request::Parts;
use std::sync::Arc;
use std::time::Instant;

/// A request whose span is exported.
#[derive(Debug)]
pub(crate) struct Traced {
    traces: Arc<Traces>,
    name: String,
    span: Span,
    stages: Arc<Stages>,
}

impl Traced {
    /// Begins the span of the request with this `head`, and passes it on to the replica in `traceparent`. Returns
    /// `None` if the request is not sampled. `traceparent` carries this decision on to the replica.
    pub(crate) fn begin(traces: &Arc<Traces>, head: &mut Parts, arrival: Arrival) -> Option<Self> {
        let span = traces.begin(&head.headers, arrival.started);
        head.headers.insert(TRACEPARENT, span.traceparent());
        let stages = Arc::new(span.stages()?);
        head.extensions.insert(Arc::clone(&stages));
        let name = match arrival.protocol {
            Protocol::Http(_) => format!("{} /api/v1/service/{{service}}", head.method),
            Protocol::Grpc => head.uri.path().trim_start_matches('/').to_owned(),
        };
        Some(Self { traces: Arc::clone(traces), name, span, stages })
    }

    /// Ends the span of a request to `service` whose answer has this status.
    pub(crate) fn end(self, service: &str, status: u16) {
        let attributes = [
            ("http.response.status_code", Value::Number(status.into())),
            ("drisse.service", Value::Text(service)),
        ];
        let failed = (status >= 500).then_some("");
        self.traces.end(&self.span, &self.name, &attributes, failed, Some(&self.stages));
    }
}

/// Records how long a traced request waited for its permit.
pub(crate) fn waited(head: &Parts, since: Instant) {
    if let Some(stages) = head.extensions.get::<Arc<Stages>>() {
        stages.note("wait", since, Instant::now());
    }
}
