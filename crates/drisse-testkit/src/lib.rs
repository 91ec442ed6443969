//! Helpers that several crates' tests share: an HTTP client that sends any bytes, load, waiting for conditions, servers
//! in threads, and hand-made ONNX files. Helpers panic where a test would have to.
#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

mod connection;
mod load;
pub mod onnx;
mod poll;
mod server;

pub use connection::{Answer, Connection, Stream, header, post};
pub use load::{Failure, Load, Request, Seen};
pub use poll::{PATIENCE, found, pause_until, wait};
pub use server::{ServerThread, Stopped};
