//! What can run a model: ONNX Runtime, and a fake with scripted failure.
//!
//! `unsafe` lives here and only here, at ONNX Runtime's C API.
#![warn(missing_docs)]

pub mod fake;
pub mod onnx;
