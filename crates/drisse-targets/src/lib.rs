//! Where services can run. Each place starts, finds, stops and removes single replicas;
//! `drisse_core::ReplicaSet` makes a target of it.

mod cgroup;
mod changes;
mod container;
pub mod fake;
mod local;
mod servers;

pub use container::{Container, ContainerConfig, container_engine};
pub use local::{Local, LocalConfig};
