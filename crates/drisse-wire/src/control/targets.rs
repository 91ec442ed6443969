//! Targets, as the control API tells of them.

use super::Failure;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TargetInfo {
    /// The name deployments use.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// How it was attached; nothing where every workspace has it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<TargetSpec>,
    /// Services that run there.
    pub services: u64,
    /// Services at most, where there is such a limit.
    pub max_services: Option<u32>,
    /// Thousandths of a core that there are, and that are promised.
    pub cpu_millis: Room,
    /// Bytes of memory that there are, and that are promised.
    pub memory_bytes: Room,
    /// Why it cannot be used, if so.
    pub error: Option<Failure>,
}

/// How much there is of something.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Room {
    /// All of it, where that is known.
    pub total: Option<u64>,
    /// What services were promised of it: the sum of their limits.
    pub promised: u64,
    /// Why no limit on it can be kept, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unenforceable: Option<String>,
}

/// `PUT /v1/targets/{name}`: attaches a target, or changes how it is attached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetSpec {
    /// What it is: `container`.
    pub kind: String,
    /// The Unix socket of its engine; without, the engine is looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Services at most; without, as many as that kind usually takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_services: Option<u32>,
}
