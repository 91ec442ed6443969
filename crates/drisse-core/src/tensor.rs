//! Tensors and the other values that a model accepts and returns, owned and borrowed.

use crate::{Buffer, DataType};
use smallvec::SmallVec;

/// The lengths of the dimensions, outermost first; empty for a scalar. Never negative.
pub type Shape = SmallVec<[i64; 6]>;

/// A dense array: row-major elements of one datatype.
///
/// ```
/// use drisse_core::{Buffer, Data, DataType, Tensor};
///
/// let mut buffer = Buffer::new();
/// buffer.extend_from(&[1.0_f32, 2.0, 3.0]);
/// let tensor = Tensor { datatype: DataType::Fp32, shape: [1, 3].as_slice().into(), data: Data::Raw(buffer) };
/// assert_eq!((tensor.byte_len(), tensor.view().shape), (12, &[1, 3][..]));
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// The element type.
    pub datatype: DataType,
    /// The lengths of the dimensions; their product is the number of elements.
    pub shape: Shape,
    /// The elements.
    pub data: Data,
}

/// The elements of an owned tensor.
#[derive(Clone, PartialEq, Debug)]
pub enum Data {
    /// Elements of any datatype except `BYTES`: little-endian, packed.
    Raw(Buffer),
    /// Elements of the datatype `BYTES`.
    Strings(Strings),
}

/// A list of byte strings: their concatenated bytes, and the offset at which each string ends.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// A borrowed tensor, for example in a request or in the engine's memory.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The element type.
    pub datatype: DataType,
    /// The lengths of the dimensions.
    pub shape: &'a [i64],
    /// The elements.
    pub data: DataView<'a>,
}

/// The elements of a borrowed tensor.
#[derive(Clone, Copy, Debug)]
pub enum DataView<'a> {
    /// Elements of any datatype except `BYTES`: little-endian, packed.
    Raw(&'a [u8]),
    /// Elements of the datatype `BYTES`.
    Strings(&'a Strings),
}

/// A value that a model returns: a tensor, or ONNX's `SequenceProto`, `MapProto` or `OptionalProto`.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A list of values.
    Sequence(Vec<Self>),
    /// A map from strings or integers to values, as two tensors of equal length (zipmap).
    Map {
        /// The keys: one-dimensional, `BYTES` or integers.
        keys: Tensor,
        /// The values: one-dimensional, as long as the keys.
        values: Tensor,
    },
    /// An empty optional.
    Absent,
}

/// An output as the engine passes it to a [`Sink`](crate::Sink).
#[derive(Clone, Copy, Debug)]
pub enum ValueView<'a> {
    /// A tensor in the engine's memory.
    Tensor(TensorView<'a>),
    /// A value that is not a tensor.
    Other(&'a Value),
}

impl Tensor {
    /// Creates a tensor of zeros, or of empty strings. `None` if the shape is invalid or the size exceeds the address
    /// space.
    pub fn zeros(datatype: DataType, shape: Shape) -> Option<Self> {
        let elements = element_count(&shape)?;
        let data = match datatype.byte_size(elements) {
            Some(bytes) if bytes <= isize::MAX as usize => Data::Raw(Buffer::zeroed(bytes)),
            Some(_) => return None,
            None if datatype == DataType::Bytes => {
                let mut strings = Strings::default();
                (0..elements).for_each(|_| strings.push(b""));
                Data::Strings(strings)
            }
            None => return None,
        };
        Some(Self { datatype, shape, data })
    }

    /// Borrows the tensor.
    pub fn view(&self) -> TensorView<'_> {
        let data = match &self.data {
            Data::Raw(buffer) => DataView::Raw(buffer.bytes()),
            Data::Strings(strings) => DataView::Strings(strings),
        };
        TensorView { datatype: self.datatype, shape: &self.shape, data }
    }

    /// Returns the size of the elements, in bytes.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Raw(buffer) => buffer.len(),
            Data::Strings(strings) => strings.bytes.len() + size_of_val(&*strings.ends),
        }
    }
}

impl Value {
    /// Copies a borrowed value.
    pub fn copy_of(view: ValueView<'_>) -> Self {
        match view {
            ValueView::Tensor(tensor) => Self::Tensor(tensor.to_owned()),
            ValueView::Other(value) => value.clone(),
        }
    }

    /// Borrows the value.
    pub fn view(&self) -> ValueView<'_> {
        match self {
            Self::Tensor(tensor) => ValueView::Tensor(tensor.view()),
            other => ValueView::Other(other),
        }
    }

    /// Returns the length of the first dimension; `None` if the value has no dimensions.
    pub fn rows(&self) -> Option<usize> {
        match self {
            Self::Tensor(tensor) => tensor.shape.first().and_then(|&rows| usize::try_from(rows).ok()),
            Self::Sequence(values) => Some(values.len()),
            Self::Map { .. } | Self::Absent => None,
        }
    }

    /// Copies the row at `nth`, which must be less than [`Self::rows`].
    pub fn row(&self, nth: usize) -> Self {
        match self {
            Self::Tensor(tensor) => Self::Tensor(tensor.row(nth)),
            Self::Sequence(values) => values[nth].clone(),
            other => other.clone(),
        }
    }
}

impl Tensor {
    /// Copies the row at `nth` of the first dimension. Elements must be whole bytes.
    fn row(&self, nth: usize) -> Self {
        let shape = Shape::from_slice(&self.shape[1..]);
        let elements = element_count(&shape).unwrap_or(0);
        let range = nth * elements..(nth + 1) * elements;
        let data = match &self.data {
            Data::Strings(strings) => Data::Strings(strings.slice(range)),
            Data::Raw(buffer) => {
                let size = self.datatype.bits().unwrap_or(8) / 8;
                Data::Raw(Buffer::copy_from(&buffer.bytes()[range.start * size..range.end * size]))
            }
        };
        Self { datatype: self.datatype, shape, data }
    }
}

impl TensorView<'_> {
    /// Copies the tensor.
    pub fn to_owned(&self) -> Tensor {
        let data = match self.data {
            DataView::Raw(bytes) => Data::Raw(Buffer::copy_from(bytes)),
            DataView::Strings(strings) => Data::Strings(strings.clone()),
        };
        Tensor { datatype: self.datatype, shape: self.shape.into(), data }
    }
}

impl Strings {
    /// Creates a list from the concatenated `bytes` and the ascending offsets at which each string ends; the last
    /// offset is the length of `bytes`.
    pub fn from_parts(bytes: Vec<u8>, ends: Vec<usize>) -> Self {
        debug_assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end == bytes.len()));
        Self { bytes, ends }
    }

    /// Appends one string.
    pub fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }

    /// Returns the number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the length of all strings together, in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Copies the strings of an index range.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let start = range.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        let ends: Vec<_> = self.ends[range].iter().map(|end| end - start).collect();
        let bytes = self.bytes[start..start + ends.last().copied().unwrap_or(0)].to_vec();
        Self { bytes, ends }
    }

    /// Iterates over the strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let string = &self.bytes[start..end];
            start = end;
            string
        })
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Self::default();
        strings.into_iter().for_each(|string| all.push(string.as_ref()));
        all
    }
}

/// Returns the product of the dimensions; `None` if one is negative or the product overflows.
pub fn element_count(shape: &[i64]) -> Option<usize> {
    // A dimension of zero makes the tensor empty, however large the other dimensions are.
    let mut count: usize = 1;
    let mut empty = false;
    for &dim in shape {
        let dim = usize::try_from(dim).ok()?;
        empty |= dim == 0;
        count = count.checked_mul(dim.max(1))?;
    }
    Some(if empty { 0 } else { count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_counts_are_checked() {
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[2, 3]), Some(6));
        assert_eq!(element_count(&[0, i64::MAX]), Some(0));
        assert_eq!(element_count(&[i64::MAX, 3]), None);
        assert_eq!(element_count(&[-1]), None);
    }

    #[test]
    fn strings_keep_their_bounds() {
        let strings: Strings = ["a", "", "bc"].into_iter().collect();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"a" as &[u8], b"", b"bc"]);
        assert_eq!(strings.slice(1..3).iter().collect::<Vec<_>>(), [b"" as &[u8], b"bc"]);
        assert!(strings.slice(3..3).is_empty());
    }
}
