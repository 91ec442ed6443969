//! What every backend of a seam promises, one function per promise. A backend's test is the list of calls.

pub mod engine;
pub mod target;
