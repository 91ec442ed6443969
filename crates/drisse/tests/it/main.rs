//! The real binary, on real models: what it prints, serves and exits with.
#![expect(clippy::unwrap_used, reason = "in a test a panic is a failure that names its line")]

mod inspect;
mod serve;
mod support;
