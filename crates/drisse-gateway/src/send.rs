//! Sending a request to a replica, and again to another one if the first cannot have scored it: if nothing of the
//! request was sent, or if its own connection was reset, which means that the replica had not read all of it.

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

/// The time that a replica gets after the deadline to send its own 504, whose message says more than the gateway's.
const GRACE: Duration = Duration::from_millis(250);

/// The pause between two attempts while every replica of the service fails.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A request that has been in the gateway for longer than this tells its replica how much time is left.
const LATE: Duration = Duration::from_millis(1);

/// A request on its way to a replica.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) service: Arc<Service>,
    pub(crate) head: Parts,
    pub(crate) body: Upload,
    pub(crate) kind: RequestKind,
    pub(crate) started: Instant,
    /// The time by which the answer must begin.
    pub(crate) deadline: Instant,
    /// Whether the client set the deadline itself.
    pub(crate) is_timed: bool,
}

/// What a request needs of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RequestKind {
    /// An HTTP request: needs a permit and a connection of its own.
    Http,
    /// A probe, which needs no key. It takes no permit, so that strangers cannot take permits.
    Probe,
    /// A gRPC call with one message each way.
    Call,
    /// A gRPC stream, which may be silent for hours. It takes no permit and has no deadline here: its replica admits
    /// each of its messages.
    Stream,
}

/// The replicas that have failed a request.
struct Failures {
    replicas: Vec<Arc<Replica>>,
    /// The time after which the request is not sent again.
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
    /// Sends a request to a replica of its service. Returns the answer when its head has arrived.
    ///
    /// # Errors
    /// Returns why no replica answered the request, or [`ProxyError::Broken`] if a replica may have scored it.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<Response<AnswerBody>, ProxyError> {
        let (service, kind, deadline) = (Arc::clone(&outgoing.service), outgoing.kind, outgoing.deadline);
        // The future is pinned on the stack, because moving it would cost a percent of a request.
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
        let patience = service.patience(started, deadline);
        let mut failures = Failures { replicas: Vec::new(), until: service.waits_until(patience) };
        let mut kept = None;
        loop {
            let permit = match kept.take() {
                Some(permit) => permit,
                None if kind.needs_permit() || !service.has_replicas() => {
                    self.permit(&mut service, patience, &failures.replicas).await?
                }
                None => service.bypass_queue(&failures.replicas),
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
            let unsent = error.take_message();
            let error = error.into_error();
            if error.is_user() {
                return Err(malformed(&error).into());
            }
            // hyper returns the request if nothing of it was sent.
            let Some(request) = unsent.or_else(|| copy.filter(|_| was_reset(&error))) else {
                return Err(broke_off(&service, &error));
            };
            (head, body) = request.into_parts();
            // If the connection was idle before, only the connection has failed: another one is opened.
            if upstream.was_idle() {
                kept = Some(permit);
            } else {
                drop(permit);
                failures.add(&service, replica, &error).await?;
            }
        }
    }

    /// Returns a permit of the service. If the routes change meanwhile, replaces `service` by its newer routes.
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
            // A replica may be starting: the request waits as it would for a busy one.
            let mut changes = self.state.table.changes();
            *service = self.current(service)?;
            if !service.has_replicas()
                && tokio::time::timeout_at(service.waits_until(patience).into(), changes.changed())
                    .await
                    .is_err()
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
    /// Adds a replica. When all replicas have failed, pauses and clears the list, so that they are tried again.
    ///
    /// # Errors
    /// Returns an error if there is not enough time to try them again.
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

/// Returns whether the connection was reset. A connection is reset if the replica closes it (or exits) with unread
/// bytes. A replica scores a request only after reading all of it, and if it then exits, its connection is not reset.
fn was_reset(error: &hyper::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    error.is_canceled() || source.is_some_and(|io| matches!(io.kind(), BrokenPipe | ConnectionReset))
}
