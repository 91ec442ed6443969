//! The port to where requests go.

use crate::ReconcileError;
use async_trait::async_trait;
use drisse_core::ServiceName;
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument};
use std::fmt::Debug;

/// All gateways of a workspace, as one.
///
/// An acknowledgement is that of every gateway: the routes are in force and kept at each of them, and `draining` is
/// the union of the replicas that one of them still has requests at. Cancel-safe: a call that was dropped may have had
/// its effect, and is repeated with the same document.
#[async_trait]
pub trait Routes: Debug + Send + Sync {
    /// Puts a service's routes in force, and returns once they are kept.
    ///
    /// # Errors
    /// Returns an error if a gateway does not answer, refuses the document or cannot keep it.
    async fn put(&self, document: &RouteDocument) -> Result<RouteAcknowledgement, ReconcileError>;

    /// Returns the routes in force; `None` if there are none.
    ///
    /// # Errors
    /// Returns an error if no gateway answers.
    async fn get(&self, service: &ServiceName) -> Result<Option<RouteDocument>, ReconcileError>;

    /// Removes a service's routes. Succeeds if there are none.
    ///
    /// # Errors
    /// Returns an error if a gateway does not answer or cannot remove them.
    async fn remove(&self, service: &ServiceName) -> Result<(), ReconcileError>;

    /// Returns the names of all services that have routes.
    ///
    /// # Errors
    /// Returns an error if no gateway answers.
    async fn list(&self) -> Result<Vec<ServiceName>, ReconcileError>;
}
