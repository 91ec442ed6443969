//! The conformance suites of the seams: one function per promise. A backend's test calls them all.

pub mod engine;
pub mod target;
