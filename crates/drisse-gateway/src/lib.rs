//! The gateway: the router in front of replicas. It needs no control plane to start or to run.
//!
//! ```text
//! connection → path → service → key → a free replica, or a bounded wait for one → replica → answer
//! ```
//!
//! Where requests go is told by one document per service, pushed to the admin socket, kept on disk and
//! then acknowledged.
#![warn(missing_docs)]

mod admin;
mod answer;
mod group;
mod grpc;
mod metrics;
mod path;
mod pool;
mod proxy;
mod replica;
mod server;
mod service;
#[cfg(test)]
mod service_tests;
mod sync;
mod table;
mod traced;
mod upload;

pub use server::{Config, Gateway, GatewayError, handler};
pub use table::{Table, TableError};
