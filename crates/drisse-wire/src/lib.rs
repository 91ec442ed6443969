//! The shapes that cross the network: scoring requests and answers, documents about models,
//! and the one table that maps an error to a status.
//!
//! The decoders are pure functions from bytes to values and back; who listens is the servers' business.
#![warn(missing_docs)]

pub mod control;
pub mod documents;
mod error;
pub mod grpc;
pub mod invocations;
pub mod json;
pub mod openapi;
mod raw;
pub mod routes;
pub mod score;
pub mod shared_memory;
pub mod v1;
pub mod v2;

pub use error::{ErrorShape, error_body, error_headers, grpc_code, http_status};
