//! Where services can run. Each place starts, finds, stops and removes single replicas;
//! `drisse_core::ReplicaSet` makes a target of it.
#![warn(missing_docs)]

mod changes;
pub mod fake;
mod local;

pub use local::{Local, LocalConfig};
