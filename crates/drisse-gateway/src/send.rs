//! Sending a request to a replica, and to another one if the first surely did not read all of it. One rule for both
//! protocols: a request is sent again if it was never sent, or if its connection was reset while some of it was unread.

use crate::answer::AnswerBody;
use crate::endpoint::HttpVersion;
use crate::error::{ProxyError, broken, deleted, late};
use crate::forwarding::set_time_left;
use crate::replica::Replica;
use crate::replica_group::{Patience, Permit, PermitError};
use crate::service::Service;
use crate::state::Core;
use crate::traced;
use crate::upload::{Upload, malformed};
use crate::upstream::Upstream;
use drisse_core::Error;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use std::fmt::Display;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replica's own 504 says more than the gateway's: it gets this much longer to say it.
const GRACE: Duration = Duration::from_millis(250);

/// Between two tries while every replica of the routes fails.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A request that waited this long in the gateway tells its replica how much time is left.
const LATE: Duration = Duration::from_millis(1);

/// A request on its way to a replica.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) service: Arc<Service>,
    pub(crate) head: Parts,
    pub(crate) body: Upload,
    pub(crate) kind: RequestKind,
    pub(crate) started: Instant,
    /// When the answer must be there.
    pub(crate) deadline: Instant,
    /// Whether the client set the deadline itself.
    pub(crate) is_timed: bool,
}

/// What a request needs of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RequestKind {
    /// A request over HTTP: a permit, and a connection of its own.
    Http,
    /// A request without a key: as strangers may send it, it takes no permit.
    Probe,
    /// A call of gRPC with one message each way.
    Call,
    /// A call of gRPC that may be silent for hours: it takes no permit and has no deadline here. Its replica admits
    /// each of its messages.
    Stream,
}

/// The replicas that have failed a request.
struct Failures {
    replicas: Vec<Arc<Replica>>,
    /// No further try after this.
    until: Instant,
}

impl RequestKind {
    fn needs_permit(self) -> bool {
        matches!(self, Self::Http | Self::Call)
    }

    fn http_version(self) -> HttpVersion {
        match self {
            Self::Http | Self::Probe => HttpVersion::Http1,
            Self::Call | Self::Stream => HttpVersion::Http2,
        }
    }
}

impl Core {
    /// Sends a request to a replica of its service and returns the answer as it begins.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<Response<AnswerBody>, ProxyError> {
        let (service, kind, deadline) = (Arc::clone(&outgoing.service), outgoing.kind, outgoing.deadline);
        // Pinned where it is: moving so large a future costs a percent of a request.
        let answer = pin!(self.try_replicas(outgoing));
        if kind == RequestKind::Stream {
            return answer.await;
        }
        match tokio::time::timeout_at((deadline + GRACE).into(), answer).await {
            Ok(result) => result,
            Err(_) => Err(late(&service.document.service).into()),
        }
    }

    async fn try_replicas(&self, outgoing: Outgoing) -> Result<Response<AnswerBody>, ProxyError> {
        let Outgoing { mut service, mut head, mut body, kind, started, deadline, is_timed } = outgoing;
        let until = deadline.min(started + service.max_wait());
        let mut failures = Failures { replicas: Vec::new(), until };
        loop {
            let permit = match kind.needs_permit() || !service.has_replicas() {
                true => self.permit(&mut service, Patience { until, deadline }, &failures.replicas).await?,
                false => service.bypass_queue(&failures.replicas),
            };
            traced::waited(&head, started);
            let replica = Arc::clone(permit.replica());
            let mut upstream = match Upstream::connect(&replica, kind.http_version(), self.index).await {
                Ok(upstream) => upstream,
                Err(error) => {
                    drop(permit);
                    failures.add(&service, replica, &error).await?;
                    continue;
                }
            };
            if kind != RequestKind::Stream && (is_timed || started.elapsed() > LATE) {
                set_time_left(&mut head.headers, deadline);
            }
            let copy = upstream.copy_to_retain(&head, &body);
            let mut error = match upstream.try_send(Request::from_parts(head, body)).await {
                Ok(response) => {
                    let answer = upstream.pass_on(response, permit, self.index, &self.state.answers).await;
                    return answer.map_err(|error| broke_off(&service, &error));
                }
                Err(error) => error,
            };
            drop(permit);
            let unsent = error.take_message();
            let error = error.into_error();
            if error.is_user() {
                return Err(malformed(&error).into());
            }
            // hyper gives a request back of which nothing was sent.
            let Some(request) = unsent.or_else(|| copy.filter(|_| was_reset(&error))) else {
                return Err(broke_off(&service, &error));
            };
            (head, body) = request.into_parts();
            // A connection that had been idle may only have been closed in the meantime: another one is opened.
            if !upstream.was_idle() {
                failures.add(&service, replica, &error).await?;
            }
        }
    }

    /// A permit of the service as the routes have it now; `service` becomes that one.
    async fn permit(
        &self,
        service: &mut Arc<Service>,
        patience: Patience,
        avoid: &[Arc<Replica>],
    ) -> Result<Permit, ProxyError> {
        loop {
            if service.has_replicas() {
                match service.permit(patience, avoid).await {
                    Ok(permit) => return Ok(permit),
                    Err(PermitError::RoutesChanged) => *service = self.current(service)?,
                    Err(_) if patience.deadline <= Instant::now() => {
                        return Err(late(&service.document.service).into());
                    }
                    Err(error) => return Err(service.overloaded(&error).into()),
                }
                continue;
            }
            // A replica may be starting: that is worth the same wait as a busy one.
            let mut changes = self.state.table.changes();
            *service = self.current(service)?;
            if !service.has_replicas()
                && tokio::time::timeout_at(patience.until.into(), changes.changed()).await.is_err()
            {
                return Err(service.unavailable().into());
            }
        }
    }

    fn current(&self, service: &Service) -> Result<Arc<Service>, Error> {
        let name = &service.document.service;
        self.state.table.service_named(name).ok_or_else(|| deleted(name))
    }
}

impl Failures {
    /// Adds a replica. Once all of them have failed, pauses, so that they are tried again; returns an error if there
    /// is not enough time for that.
    async fn add(
        &mut self,
        service: &Service,
        replica: Arc<Replica>,
        error: &(dyn Display + Sync),
    ) -> Result<(), ProxyError> {
        service.metrics.retries.inc();
        self.replicas.push(replica);
        if self.replicas.len() < service.replica_count() {
            return Ok(());
        }
        self.replicas.clear();
        if Instant::now() + RETRY_PAUSE > self.until {
            tracing::warn!(service = service.document.service, "no replica can be reached: {error}");
            return Err(service.unavailable().into());
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }
}

fn broke_off(service: &Service, error: &hyper::Error) -> ProxyError {
    let service = &service.document.service;
    tracing::warn!(service, "a replica broke off: {error:?}");
    broken(service)
}

/// Whether the connection was reset, as it is if its other end closes it while bytes are unread. A replica scores only
/// what it has read whole; if it has read everything and then ends, the connection ends in an orderly way.
fn was_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_canceled() || source.is_some_and(|io| matches!(io.kind(), BrokenPipe | ConnectionReset))
}
