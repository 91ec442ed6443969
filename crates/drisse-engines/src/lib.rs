//! The engines, which run models: ONNX Runtime, and a fake with scripted failures for tests.
//!
//! This is the only crate with `unsafe` code, for ONNX Runtime's C API.

pub mod fake;
pub mod onnx;
