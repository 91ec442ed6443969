//! Tests of the engines as the scoring server uses them: through the seam, with real models.

mod conformance;
mod onnx;
mod support;
