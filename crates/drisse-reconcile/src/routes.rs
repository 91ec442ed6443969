//! The port to the gateways, which route requests.

use crate::ReconcileError;
use async_trait::async_trait;
use drisse_core::ServiceName;
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument};
use std::fmt::Debug;

/// The port to all gateways of a workspace. May be called from any thread.
///
/// An acknowledgement speaks for every gateway: each has put the routes in force and stored them, and `draining` lists
/// the replicas that still have requests of any gateway. Cancel-safe: a call that is dropped may or may not take
/// effect, and may be repeated with the same document.
#[async_trait]
pub trait Routes: Debug + Send + Sync {
    /// Puts a service's routes in force, and returns once they are stored.
    ///
    /// # Errors
    /// Returns an error if a gateway does not answer, refuses the document or cannot store it.
    async fn put(&self, document: &RouteDocument) -> Result<RouteAcknowledgement, ReconcileError>;

    /// Returns the routes of a service that are in force; `None` if it has none.
    ///
    /// # Errors
    /// Returns an error if no gateway answers.
    async fn get(&self, service: &ServiceName) -> Result<Option<RouteDocument>, ReconcileError>;

    /// Removes a service's routes. Succeeds if it has none.
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
