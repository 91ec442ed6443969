//! The span of a traced request.

use super::Ids;
use crate::app::App;
use crate::models::Model;
use drisse_core::{Error, ErrorKind};
use drisse_net::trace::{Span, Stages, Traces, Value};
use hyper::http::request::Parts;
use std::sync::Arc;
use std::time::Instant;

/// The span of a request, from its head to its response.
pub(super) struct RequestSpan {
    traces: Arc<Traces>,
    span: Span,
    /// Where the times of the request's parts are noted.
    pub(super) stages: Arc<Stages>,
}

impl RequestSpan {
    /// Begins the span of a request with this head; `None` if the request is not sampled.
    pub(super) fn begin(app: &App, head: &Parts, started: Instant) -> Option<Self> {
        let traces = app.config.traces.as_ref()?;
        let span = traces.begin(&head.headers, started);
        let stages = Arc::new(span.stages()?);
        Some(Self { traces: Arc::clone(traces), span, stages })
    }

    /// Ends the span and keeps it for export.
    pub(super) fn end(
        self,
        name: &str,
        ids: &Ids,
        model: Option<&Model>,
        status: u16,
        error: Option<&Error>,
    ) {
        let mut attributes = vec![
            ("http.response.status_code", Value::Number(status.into())),
            ("drisse.request_id", Value::Text(ids.request())),
        ];
        if let Some(model) = model {
            attributes.push(("drisse.model", Value::Text(model.name())));
            attributes.push(("drisse.model.version", Value::Text(&model.version)));
        }
        // A client's error does not make the server's span an error (OpenTelemetry's conventions for HTTP).
        let ours = |error: &&Error| {
            matches!(error.kind(), ErrorKind::Internal | ErrorKind::Overloaded | ErrorKind::Unavailable)
                || error.kind() == ErrorKind::DeadlineExceeded
        };
        let failed = error.filter(ours).map(Error::message);
        self.traces.end(&self.span, name, &attributes, failed, Some(&self.stages));
    }
}
