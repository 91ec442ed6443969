//! One request from its head to its response: the only place where the requests of all protocols begin and end. What
//! has to happen for every request (metrics, access log, span) happens here; the handlers of the protocols parse, call
//! and map.

mod ids;
mod span;

pub(crate) use ids::Ids;

use crate::app::App;
use crate::models::Model;
use crate::score::{Request, admit, score};
use drisse_core::{Error, ErrorKind, Inputs, Result, Sink};
use drisse_net::Access;
use drisse_net::trace::Stages;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use span::RequestSpan;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request and its response, on any protocol.
pub(crate) struct Exchange<'a> {
    pub(crate) counted: Counted<'a>,
    pub(crate) ids: Ids,
    span: Option<Box<RequestSpan>>,
}

/// A request that is counted in the metrics of its model when it ends: a whole exchange, or one message of a stream.
pub(crate) struct Counted<'a> {
    pub(crate) app: &'a Arc<App>,
    started: Instant,
    model: Option<Arc<Model>>,
    stages: Option<Arc<Stages>>,
}

/// A request for one model, which its protocol's handler decodes and scores. Only [`Counted::scoring`] creates it, so
/// that every scored request is counted.
pub(crate) struct Scoring<'a> {
    pub(crate) app: &'a App,
    pub(crate) model: Arc<Model>,
    pub(crate) deadline: Instant,
    stages: Option<Arc<Stages>>,
}

/// The name of an exchange's span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// The method and this path, of an HTTP request that scores.
    Http(&'static str),
    /// The service and the method of a gRPC call.
    Grpc,
    /// There is no span: the request does not score.
    Other,
}

impl<'a> Exchange<'a> {
    /// Begins the exchange of a request with this head.
    pub(crate) fn begin(app: &'a Arc<App>, head: &Parts) -> Self {
        let mut counted = Counted::begin(app);
        let ids = Ids::of(head, app);
        let span = RequestSpan::begin(app, head, counted.started).map(Box::new);
        counted.stages = span.as_ref().map(|span| Arc::clone(&span.stages));
        Self { counted, ids, span }
    }

    /// Ends the exchange before its response is sent. `status`: the HTTP status, also of a gRPC call. Returns the ids
    /// that the response gets.
    pub(crate) fn end(self, head: &Parts, operation: Operation, status: u16, error: Option<&Error>) -> Ids {
        let Self { counted, ids, span } = self;
        let took = counted.started.elapsed();
        let model = counted.model.as_deref();
        if let Some(model) = model {
            model.runner.metrics.finished(status, took);
        }
        let (method, path, name) = (head.method.as_str(), head.uri.path(), model.map_or("", Model::name));
        let request_id = ids.request();
        let ms = took.as_secs_f64() * 1e3;
        // Only failures of the server are logged by default: clients must not be able to fill the log.
        match error {
            Some(error) if error.kind() == ErrorKind::Internal => {
                tracing::error!(%method, status, request_id, model = name, ms, "{error}");
            }
            Some(error) => tracing::debug!(%method, status, request_id, model = name, ms, "{error}"),
            None => tracing::debug!(%method, status, request_id, model = name, ms, "answered"),
        }
        if let Some(log) = &counted.app.config.access_log {
            log.write(&Access { method, path, status, took, request_id, name });
        }
        if let Some(span) = span {
            match operation {
                Operation::Http(path) => span.end(&format!("{method} {path}"), &ids, model, status, error),
                Operation::Grpc => span.end(path.trim_start_matches('/'), &ids, model, status, error),
                Operation::Other => {}
            }
        }
        ids
    }
}

impl<'a> Counted<'a> {
    /// Begins a request that has no exchange of its own: a message of a stream.
    pub(crate) fn begin(app: &'a Arc<App>) -> Self {
        Self { app, started: Instant::now(), model: None, stages: None }
    }

    /// Makes this a request for `model`, whose handler may score it until `deadline`.
    pub(crate) fn scoring(&mut self, model: Arc<Model>, deadline: Instant) -> Scoring<'a> {
        self.model = Some(Arc::clone(&model));
        Scoring { app: self.app, model, deadline, stages: self.stages.clone() }
    }

    /// Ends a message of a stream.
    pub(crate) fn end<T>(self, result: &Result<T>) {
        if let Some(model) = self.model {
            model.runner.metrics.finished(status(result), self.started.elapsed());
        }
    }

    /// Refuses unless the headers have one of the keys.
    pub(crate) fn authorize(&self, headers: &HeaderMap) -> Result<()> {
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        if self.app.keys.as_ref().is_none_or(|keys| keys.accept(given)) {
            return Ok(());
        }
        self.app.metrics.refused_keys.inc();
        let message = "the key is missing or wrong: send `Authorization: Bearer KEY`";
        Err(Error::new(ErrorKind::Unauthenticated, message))
    }

    /// Returns the server's own deadline.
    pub(crate) fn latest(&self) -> Instant {
        self.started + self.app.config.scoring_timeout
    }

    /// Returns the deadline after `timeout`, but at most the server's own.
    pub(crate) fn within(&self, timeout: Duration) -> Instant {
        self.started + self.app.config.scoring_timeout.min(timeout)
    }

    /// Returns the deadline of the client's `x-request-timeout-ms`, but at most the server's own.
    pub(crate) fn deadline(&self, headers: &HeaderMap) -> Result<Instant> {
        const HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");
        let Some(header) = headers.get(&HEADER) else { return Ok(self.latest()) };
        let digits = header.to_str().ok().map(str::trim);
        let digits = digits.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        // A number that does not fit is longer than the server's own timeout.
        let wanted = digits.map(|digits| digits.parse().unwrap_or(u64::MAX)).filter(|&ms| ms > 0);
        let wanted = wanted.ok_or_else(|| {
            Error::invalid(format!("{HEADER} is a whole number of milliseconds, at least 1"))
        })?;
        Ok(self.within(Duration::from_millis(wanted)))
    }
}

impl Scoring<'_> {
    /// Refuses a request that would wait too long or be answered too late: before its body is decoded, so that a
    /// refusal costs little.
    pub(crate) fn admit(&self) -> Result<()> {
        admit(self.app, &self.model.runner, self.deadline).map(drop)
    }

    /// Scores the request. `outputs`: the indices of the requested outputs.
    pub(crate) fn score<S>(
        &self,
        inputs: Inputs,
        outputs: Vec<usize>,
        sink: S,
    ) -> impl Future<Output = Result<S>> + Send
    where
        S: Sink + Send + 'static,
    {
        let (deadline, stages) = (self.deadline, self.stages.clone());
        score(self.app, &self.model.runner, Request { inputs, outputs, deadline, stages, sink })
    }
}

/// Returns the HTTP status of a result.
pub(crate) fn status<T>(result: &Result<T>) -> u16 {
    result.as_ref().map_or_else(|error| drisse_wire::http_status(error.kind()), |_| 200)
}
