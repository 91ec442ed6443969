//! JSON as the scoring path needs it: numbers read straight into tensors and printed from them.
//!
//! Two things set it apart from a JSON library: it fills a tensor of the wanted datatype without a
//! tree in between, and it takes the `NaN` and `Infinity` that Python's `json` prints.

mod number;
mod reader;
mod tensor;
mod writer;

pub use reader::Reader;
pub(crate) use reader::well_formed;
pub use tensor::TensorReader;
pub(crate) use tensor::integer;
pub use writer::Writer;
