//! The server that is checked, and what it answers.

use drisse_net::http::Address;
use hyper::HeaderMap;
use serde_json::Value;
use std::time::Duration;

/// The server to check.
#[derive(Clone, Debug)]
pub struct Server {
    /// The server's address for HTTP.
    pub http: Address,
    /// The server's address for gRPC.
    pub grpc: Address,
    /// The key to send as `Authorization: Bearer`.
    pub key: Option<String>,
    /// The longest time to wait for a response.
    pub patience: Duration,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status as a number, or the name of the gRPC code.
    pub(crate) status: String,
    pub(crate) headers: HeaderMap,
    /// Each message as JSON, or why it cannot be converted.
    pub(crate) answers: Vec<Result<Value, String>>,
    /// The body as text, or the gRPC error message.
    pub(crate) text: String,
}
