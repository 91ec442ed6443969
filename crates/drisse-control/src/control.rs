//! The state of the control API's handlers.

use crate::db::Db;
use crate::gateway::Gateway;
use crate::operations::Operations;
use crate::services::Services;
use crate::stop::Stop;
use crate::workspace::Workspace;
use drisse_net::Build;
use std::net::SocketAddr;
use std::sync::Arc;

/// A running control plane. Clones share its state.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) about: Arc<About>,
    pub(crate) db: Db,
    pub(crate) services: Services,
    pub(crate) operations: Operations,
    pub(crate) gateway: Gateway,
    pub(crate) stop: Stop,
}

/// The facts about a control plane that do not change while it runs.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) workspace: Workspace,
    pub(crate) version: &'static str,
    pub(crate) build: Build,
    /// Whether the workspace is down: nothing runs, and this only shows what is kept.
    pub(crate) at_rest: bool,
    /// The address of `/metrics`, if it is served.
    pub(crate) metrics: Option<SocketAddr>,
    /// The address of the store as a registry, if it is served.
    pub(crate) registry: Option<SocketAddr>,
}
