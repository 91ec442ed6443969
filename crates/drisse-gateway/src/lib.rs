//! The gateway: the router in front of replicas. It needs no control plane to start or to run.
//!
//! ```text
//! connection → path → service → key → permit, or a bounded wait for one → replica → answer
//! ```
//!
//! One document per service ([`drisse_wire::routes::RouteDocument`]) names the replicas that get its requests. It is
//! pushed to the admin socket, stored on disk and then acknowledged.

mod admin;
mod answer;
mod endpoint;
mod error;
mod exchange;
mod forwarding;
mod grpc;
mod metrics;
mod path;
mod pool;
mod protocol;
mod proxy;
mod replica;
mod replica_group;
mod send;
mod server;
mod service;
#[cfg(test)]
mod service_tests;
mod state;
mod sync;
mod table;
mod traced;
mod upload;
mod upstream;

pub use server::{Config, Gateway, GatewayError, handler};
pub use table::{Table, TableError};
