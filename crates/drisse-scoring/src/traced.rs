//! A request's span: begun with its head, ended with its answer.

use crate::app::App;
use crate::http::reply::Ids;
use crate::model::Model;
use drisse_core::{Error, ErrorKind};
use drisse_net::trace::{Span, Stages, Traces, Value};
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
    /// The span of a request with this head, which carries from now on where parts of its time are noted; none where
    /// it is not sampled.
    pub(crate) fn begin(app: &App, head: &mut Parts, started: Instant) -> Option<Self> {
        let traces = app.config.traces.as_ref()?;
        let span = traces.begin(&head.headers, started);
        let stages = Arc::new(span.stages()?);
        head.extensions.insert(Arc::clone(&stages));
        Some(Self { traces: Arc::clone(traces), span, stages })
    }

    /// Keeps the span of a request of this kind that was answered so.
    pub(crate) fn end(
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
            attributes.push(("drisse.model", Value::Text(model.name.as_str())));
            attributes.push(("drisse.model.version", Value::Text(&model.version)));
        }
        // A client's mistake is no failure of the server's span (OpenTelemetry's conventions for HTTP).
        let ours = |error: &&Error| {
            matches!(error.kind(), ErrorKind::Internal | ErrorKind::Overloaded | ErrorKind::Unavailable)
                || error.kind() == ErrorKind::DeadlineExceeded
        };
        let failed = error.filter(ours).map(Error::message);
        self.traces.end(&self.span, name, &attributes, failed, Some(&self.stages));
    }
}
