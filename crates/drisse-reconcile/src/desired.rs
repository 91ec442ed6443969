//! The port to the desired state.

use crate::ReconcileError;
use async_trait::async_trait;
use drisse_core::{RevisionSpec, ServiceName, Wanted};
use drisse_wire::control::{Failure, ServiceState};
use std::fmt::Debug;
use std::path::PathBuf;

/// Where the desired state is kept, and where the observed state is reported to.
///
/// Every method may be called at the same time from the tasks of different services. All of them are cancel-safe: a
/// dropped call is repeated in the next round.
#[async_trait]
pub trait Desired: Debug + Send + Sync {
    /// Returns the names of all services, including those that are being deleted.
    ///
    /// # Errors
    /// Returns an error if the desired state cannot be read.
    async fn services(&self) -> Result<Vec<ServiceName>, ReconcileError>;

    /// Returns the desired state of a service; `None` if there is no such service.
    ///
    /// # Errors
    /// Returns an error if the desired state cannot be read or contradicts itself.
    async fn service(&self, name: &ServiceName) -> Result<Option<DesiredService>, ReconcileError>;

    /// Returns a revision that is not wanted any more and may still serve requests; `None` if it is not known.
    ///
    /// # Errors
    /// Returns an error if the desired state cannot be read.
    async fn revision(
        &self,
        name: &ServiceName,
        revision: u64,
    ) -> Result<Option<RevisionSpec>, ReconcileError>;

    /// Keeps the status that was observed while `generation` was wanted. Has no effect if something newer is wanted.
    ///
    /// # Errors
    /// Returns an error if the status cannot be kept.
    async fn report(
        &self,
        name: &ServiceName,
        generation: u64,
        status: &Status,
    ) -> Result<(), ReconcileError>;

    /// Forgets a service that is being deleted and has neither routes nor replicas any more.
    ///
    /// # Errors
    /// Returns an error if the service cannot be forgotten.
    async fn forget(&self, name: &ServiceName) -> Result<(), ReconcileError>;
}

/// The desired state of one service.
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredService {
    /// Increases with every change of the desired state.
    pub generation: u64,
    /// The name of the target that runs the service.
    pub target: String,
    /// The wanted revisions and their shares, at least one.
    pub wanted: Vec<Wanted>,
    /// Whether replicas should run. A service whose first deployment failed has none.
    pub active: bool,
    /// How the service is removed; `None` if it is not.
    pub deletion: Option<Deletion>,
    /// Origins whose web pages may send requests; `*` is every origin.
    pub cors_origins: Vec<String>,
    /// The file to which the gateway writes a line per request.
    pub access_log: Option<PathBuf>,
    /// Whether an operation is changing the service: the operation then decides on the status.
    pub in_operation: bool,
    /// The status that was reported last.
    pub status: Status,
}

/// How a service is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletion {
    /// Once its target has removed everything.
    Orderly,
    /// Even if its target does not answer.
    Forced,
}

/// The status of a service, as users see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// The state.
    pub state: ServiceState,
    /// Why the service is not ready, if known.
    pub error: Option<Failure>,
}
