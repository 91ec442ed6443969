//! Checks a server, whoever wrote it, against the protocols it speaks: cases are data (`cases/*.toml`), each an exchange
//! or several, each with the line of the specification it comes from.

mod case;
mod exchange;
mod expect;
mod grpc;
mod http;
mod models;
mod report;
mod run;
mod tensors;

pub use case::{Case, Protocol, cases};
pub use models::{MODELS, model};
pub use report::{Outcome, Report, Verdict};
pub use run::{Server, Unusable, run};
