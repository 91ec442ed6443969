//! JSON for the scoring path: numbers are parsed straight into tensors and printed from them.
//!
//! It differs from a JSON library in two ways: it fills tensors without building a tree of values first, and it accepts
//! the `NaN` and `Infinity` that Python's `json` module prints.

mod number;
mod reader;
mod tensor;
mod writer;

pub use reader::Reader;
pub(crate) use reader::well_formed;
pub use tensor::TensorReader;
pub(crate) use tensor::integer;
pub use writer::{BytesForm, Writer};
