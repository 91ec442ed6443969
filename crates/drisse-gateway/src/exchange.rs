//! An exchange: one request to a service, from the moment its service is known to the status of its answer. It checks
//! the key, and records the request once in metrics, access log and traces, whatever the protocol.

use crate::answer::AnswerBody;
use crate::error::ProxyError;
use crate::forwarding::request_id;
use crate::protocol::Arrival;
use crate::service::Service;
use crate::state::GatewayState;
use crate::traced::Traced;
use drisse_core::Error;
use drisse_net::Access;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, Uri};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A request to a service. [`Exchange::run`] is the only way to end it.
#[derive(Debug)]
#[must_use = "an exchange that is not run is missing in metrics, access log and traces"]
pub(crate) struct Exchange {
    service: Arc<Service>,
    arrival: Arrival,
    /// Method and target for the access log; `None` if the service has none.
    target: Option<(Method, Uri)>,
    traced: Option<Traced>,
    /// Whether the request may be sent on.
    authorized: Result<(), Error>,
}

impl Exchange {
    /// Begins the exchange of the request with this `head`: adds its span to the headers and checks the key.
    pub(crate) fn begin(
        state: &GatewayState,
        service: &Arc<Service>,
        head: &mut Parts,
        arrival: Arrival,
    ) -> Self {
        let target = service.access_log.is_some().then(|| (head.method.clone(), head.uri.clone()));
        let traces = state.traces.as_ref();
        let traced =
            traces.and_then(|traces| Traced::begin(traces, head, arrival)).filter(|_| !arrival.is_open);
        let authorized = match arrival.is_open {
            true => Ok(()),
            false => service.authorize(head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)),
        };
        Self { service: Arc::clone(service), arrival, target, traced, authorized }
    }

    /// Waits for the answer, unless the key is wrong, and ends the exchange with its status. If the client disconnects
    /// first, both are dropped and the exchange is not recorded, because it has no status.
    pub(crate) async fn run(
        mut self,
        answer: Pin<&mut impl Future<Output = Result<Response<AnswerBody>, ProxyError>>>,
    ) -> Response<AnswerBody> {
        let result = match std::mem::replace(&mut self.authorized, Ok(())) {
            Ok(()) => answer.await,
            Err(error) => Err(error.into()),
        };
        let (status, response) = match result {
            Ok(response) => (response.status().as_u16(), response),
            Err(error) => self.arrival.protocol.failure(&error),
        };
        self.end(status, request_id(&response));
        response
    }

    fn end(self, status: u16, request_id: &str) {
        let took = self.arrival.started.elapsed();
        let name = &self.service.document.service;
        self.service.metrics.finished(status, took.as_secs_f64());
        if let (Some(log), Some((method, uri))) = (&self.service.access_log, self.target) {
            let (method, path) = (method.as_str(), uri.path());
            log.write(&Access { method, path, status, took, request_id, name });
        }
        if let Some(traced) = self.traced {
            traced.end(name, status);
        }
    }
}
