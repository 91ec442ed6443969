//! A gateway in process, in front of replicas that do exactly what a test says.
#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

mod exchange;
mod proxy;
mod routes;
mod scoring;
mod slow;
mod support;
mod tls;
