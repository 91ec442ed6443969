//! Sends routes to the gateway over its admin socket.

use super::{ASK_AGAIN, Gateway, PATIENCE};
use crate::error::{ControlError, Result};
use async_trait::async_trait;
use drisse_core::{ErrorKind, ServiceName};
use drisse_net::http::{Address, Ask};
use drisse_reconcile::{ReconcileError, Routes};
use drisse_wire::control::{Failure, FailureBody};
use drisse_wire::http_status;
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument};
use hyper::Method;
use std::time::Instant;

#[async_trait]
impl Routes for Gateway {
    async fn put(&self, document: &RouteDocument) -> Result<RouteAcknowledgement, ReconcileError> {
        let body = serde_json::to_vec(document).unwrap_or_default();
        let answer = self.ask(Method::PUT, &format!("/routes/{}", document.service), body).await?;
        let unreadable =
            |error| ControlError::internal("the gateway sent an unexpected response").because(&error);
        Ok(serde_json::from_slice(&answer).map_err(unreadable)?)
    }

    async fn get(&self, service: &ServiceName) -> Result<Option<RouteDocument>, ReconcileError> {
        match self.ask(Method::GET, &format!("/routes/{service}"), vec![]).await {
            Ok(body) => Ok(serde_json::from_slice(&body).ok()),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove(&self, service: &ServiceName) -> Result<(), ReconcileError> {
        Ok(self.ask(Method::DELETE, &format!("/routes/{service}"), vec![]).await.map(drop)?)
    }

    async fn list(&self) -> Result<Vec<ServiceName>, ReconcileError> {
        let body = self.ask(Method::GET, "/routes", vec![]).await?;
        let all: serde_json::Map<_, _> = serde_json::from_slice(&body).unwrap_or_default();
        Ok(all.keys().filter_map(|name| name.parse().ok()).collect())
    }
}

impl Gateway {
    /// Sends a request until the gateway answers. A gateway that was killed is replaced meanwhile.
    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let admin = self.admin().await?;
            let asked = admin.ask(Ask::send(method.clone(), path, body.clone()));
            let Ok(asked) = tokio::time::timeout(PATIENCE, asked).await else {
                let live = tokio::time::timeout(PATIENCE, admin.ask(Ask::get("/live"))).await;
                let seconds = PATIENCE.as_secs();
                return Err(ControlError::internal(match live {
                    Ok(Ok(_)) => {
                        format!("the gateway's disk is slow: it has not stored a change within {seconds} s")
                    }
                    _ => format!("the gateway has not answered within {seconds} s"),
                }));
            };
            match asked {
                Ok((status, body)) if status < 400 => return Ok(body.to_vec()),
                Ok((status, body)) => {
                    let failure = serde_json::from_slice::<FailureBody>(&body).map(|body| body.error);
                    let failure = failure.unwrap_or_else(|_| {
                        Failure::new(format!("the gateway refused a request with status {status}"))
                    });
                    // The kinds of errors that the gateway's admin API answers with.
                    let kinds = [ErrorKind::InvalidInput, ErrorKind::NotFound, ErrorKind::Conflict];
                    let kind = kinds.into_iter().find(|&kind| http_status(kind) == status);
                    return Err(ControlError { kind: kind.unwrap_or(ErrorKind::Internal), failure });
                }
                Err(error) if Instant::now() > until => {
                    return Err(ControlError::internal("cannot send routes to the gateway").because(&error));
                }
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Returns the admin address of the gateway; `None` if none runs.
    pub(crate) fn admin_now(&self) -> Option<Address> {
        self.0.current.borrow().as_ref().map(|current| Address::unix(&current.admin))
    }

    async fn admin(&self) -> Result<Address> {
        let mut current = self.0.current.subscribe();
        let up = tokio::time::timeout(PATIENCE, current.wait_for(Option::is_some)).await;
        match up {
            Ok(Ok(current)) => {
                Ok(Address::Unix(current.as_ref().map(|current| current.admin.clone()).unwrap_or_default()))
            }
            _ => {
                let log = self.0.workspace.logs().join("gateway.log");
                Err(ControlError::internal("the gateway does not start")
                    .hint(format!("see its log, {}", log.display())))
            }
        }
    }
}
