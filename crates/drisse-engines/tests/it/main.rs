//! The engines as the scoring server meets them: through the seam, with real models.

mod conformance;
mod onnx;
mod support;
