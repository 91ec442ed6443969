//! The scoring server as its clients meet it: the whole program in process, a fake engine behind it.
#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

mod bad_requests;
mod batching;
mod life;
mod limits;
mod metrics;
mod overload;
mod support;
