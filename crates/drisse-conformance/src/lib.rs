//! Checks any inference server against the protocols it speaks. Cases are data (`cases/*.toml`): each has one or more
//! exchanges, and cites the line of the specification that it checks.
//!
//! ```
//! use drisse_conformance::{Protocol, cases};
//!
//! let protocol: Protocol = "v2".parse()?;
//! assert!(cases(protocol).iter().any(|case| case.name == "the server is live"));
//! # Ok::<(), String>(())
//! ```

mod case;
mod exchange;
mod expect;
mod grpc;
mod http;
mod models;
mod protocol;
mod report;
mod run;
mod server;
mod tensors;

pub use case::{Case, cases};
pub use models::{MODELS, model};
pub use protocol::Protocol;
pub use report::{Outcome, Report, Verdict};
pub use run::{RunError, run};
pub use server::Server;
