//! Everything that crosses the network: scoring requests and responses, documents about models, the control API, and
//! the one table that maps an error to a status.
//!
//! Encoders and decoders are pure functions between bytes and values; the servers own the sockets.

pub mod control;
pub mod documents;
mod error;
pub mod grpc;
pub mod ids;
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
