//! The places where services can run: processes and containers of this machine, and a fake for tests. Each place
//! starts, finds, stops and removes single replicas; [`drisse_core::ReplicaSet`] makes a target of a place.

mod cgroup;
mod changes;
mod container;
pub mod fake;
mod local;
mod servers;

pub use container::{Container, ContainerConfig, container_engine};
pub use local::{Local, LocalConfig};
