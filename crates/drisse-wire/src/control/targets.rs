//! Targets in the control API: where services can run.

use super::Failure;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TargetInfo {
    /// The name that deployments use.
    pub name: String,
    /// The kind of target, such as `local` or `container`.
    pub kind: String,
    /// How the target was attached; absent for targets that every workspace has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<TargetSpec>,
    /// The number of services on the target.
    pub services: u64,
    /// The largest number of services, if limited.
    pub max_services: Option<u32>,
    /// CPU of the target, in thousandths of a core.
    pub cpu_millis: Headroom,
    /// Memory of the target, in bytes.
    pub memory_bytes: Headroom,
    /// Why the target cannot be used; `null` if it can.
    pub error: Option<Failure>,
}

/// The capacity of a target for one resource.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Headroom {
    /// The total capacity, if known.
    pub total: Option<u64>,
    /// The capacity promised to services: the sum of their limits.
    pub promised: u64,
    /// Why the target cannot enforce limits of this resource; absent if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unenforceable: Option<String>,
}

/// The body of `PUT /v1/targets/{name}`: how a target is attached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetSpec {
    /// The kind of target: `container`.
    pub kind: String,
    /// The Unix socket of the container engine; by default, Drisse searches for an engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The largest number of services; by default the limit of the target's kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_services: Option<u32>,
}
