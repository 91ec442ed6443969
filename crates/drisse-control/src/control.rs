//! What the control API's handlers act on.

use crate::db::Db;
use crate::gateway::Gateway;
use crate::operations::Operations;
use crate::services::Services;
use crate::stop::Stop;
use crate::workspace::Workspace;
use drisse_net::Build;
use std::net::SocketAddr;
use std::sync::Arc;

/// A control plane that runs. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) about: Arc<About>,
    pub(crate) db: Db,
    pub(crate) services: Services,
    pub(crate) operations: Operations,
    pub(crate) gateway: Gateway,
    pub(crate) stop: Stop,
}

/// What does not change while the control plane runs.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) workspace: Workspace,
    pub(crate) version: &'static str,
    pub(crate) build: Build,
    /// Where `/metrics` is served.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where the store is served as a registry.
    pub(crate) registry: Option<SocketAddr>,
}
