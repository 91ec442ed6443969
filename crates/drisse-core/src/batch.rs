//! Batching: concatenates the inputs of several requests along their first dimension, and splits the outputs.

use crate::{
    Buffer, Data, DataView, Dim, Inputs, Shape, Signature, Strings, Tensor, TensorView, Value, ValueView,
};
use std::ops::Range;

impl Signature {
    /// Returns whether inputs of several requests can be concatenated: every input has a free first dimension.
    pub fn has_free_rows(&self) -> bool {
        let free = |port: &crate::Port| {
            let shape = port.tensor().and_then(|tensor| tensor.shape.as_deref());
            matches!(shape, Some([Dim::Free(_), ..]))
        };
        !self.inputs.is_empty() && self.inputs.iter().all(free)
    }
}

impl Inputs {
    /// Returns the length of the first dimension that all inputs share. `None` if the lengths differ, if one is 0 or
    /// missing, or if elements are smaller than a byte, because such elements cannot be concatenated.
    pub fn rows(&self) -> Option<usize> {
        let mut given = self.given().map(|(_, tensor)| {
            let whole = tensor.datatype.is_whole_bytes();
            usize::try_from(*tensor.shape.first()?).ok().filter(|&rows| whole && rows > 0)
        });
        let rows = given.next()??;
        given.all(|other| other == Some(rows)).then_some(rows)
    }

    /// Returns whether both can share a run: the same inputs, with equal datatypes and equal shapes except for the
    /// number of rows.
    pub fn joins(&self, other: &Self) -> bool {
        let alike = |((index, one), (other_index, other)): ((usize, &Tensor), (usize, &Tensor))| {
            index == other_index
                && one.datatype == other.datatype
                && one.shape.get(1..) == other.shape.get(1..)
        };
        self.given().count() == other.given().count() && self.given().zip(other.given()).all(alike)
    }

    /// Concatenates the rows of `parts`, in order. All of them must [join](Self::joins) each other.
    ///
    /// # Panics
    /// Panics if `parts` is empty.
    pub fn joined(parts: &[&Self]) -> Self {
        if let [only] = parts {
            return (*only).clone();
        }
        let mut joined = parts[0].emptied();
        for (index, tensor) in joined.given_mut() {
            let parts = || parts.iter().filter_map(|part| part.get(index));
            if let Data::Raw(buffer) = &mut tensor.data {
                buffer.reserve(parts().map(Tensor::byte_len).sum());
            }
            parts().for_each(|part| tensor.append(part));
        }
        joined
    }
}

impl Tensor {
    /// Returns a tensor of the same datatype and shape, but with 0 rows. The tensor must have a first dimension.
    pub(crate) fn emptied(&self) -> Self {
        let mut shape = self.shape.clone();
        shape[0] = 0;
        let data = match &self.data {
            Data::Raw(_) => Data::Raw(Buffer::new()),
            Data::Strings(_) => Data::Strings(Strings::default()),
        };
        Self { datatype: self.datatype, shape, data }
    }

    /// Appends the rows of `other`.
    fn append(&mut self, other: &Self) {
        match (&mut self.data, &other.data) {
            (Data::Raw(all), Data::Raw(more)) => all.extend(more.bytes()),
            (Data::Strings(all), Data::Strings(more)) => more.iter().for_each(|string| all.push(string)),
            _ => return,
        }
        self.shape[0] += other.shape[0];
    }
}

impl ValueView<'_> {
    /// Calls `then` with the given rows as a value of their own. `None` if the value does not have `all` rows, or
    /// cannot be split.
    pub fn with_rows<T>(
        &self,
        rows: Range<usize>,
        all: usize,
        then: impl FnOnce(ValueView<'_>) -> T,
    ) -> Option<T> {
        let tensor = match self {
            Self::Tensor(tensor) => tensor,
            Self::Other(Value::Sequence(values)) if values.len() == all => {
                return Some(then(ValueView::Other(&Value::Sequence(values[rows].to_vec()))));
            }
            Self::Other(_) => return None,
        };
        if tensor.shape.first().and_then(|&rows| usize::try_from(rows).ok()) != Some(all) || all == 0 {
            return None;
        }
        let whole = tensor.datatype.is_whole_bytes();
        let mut shape = Shape::from_slice(tensor.shape);
        shape[0] = i64::try_from(rows.len()).ok().filter(|_| whole)?;
        let strings;
        let data = match tensor.data {
            DataView::Raw(bytes) => {
                let row = bytes.len() / all;
                DataView::Raw(&bytes[rows.start * row..rows.end * row])
            }
            DataView::Strings(all_strings) => {
                let row = all_strings.len() / all;
                strings = all_strings.slice(rows.start * row..rows.end * row);
                DataView::Strings(&strings)
            }
        };
        Some(then(ValueView::Tensor(TensorView { datatype: tensor.datatype, shape: &shape, data })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataType, Port, TensorType, ValueType};

    fn signature() -> Signature {
        let port = |name: &str, datatype, rest: &[Dim]| Port {
            name: name.to_owned(),
            kind: ValueType::Tensor(TensorType {
                datatype,
                shape: Some([&[Dim::Free(None)], rest].concat()),
            }),
            optional: false,
        };
        let inputs = vec![port("x", DataType::Int32, &[Dim::Fixed(2)]), port("s", DataType::Bytes, &[])];
        Signature { inputs, outputs: vec![] }
    }

    fn inputs(numbers: &[i32], strings: &[&str]) -> Inputs {
        let mut buffer = Buffer::new();
        numbers.iter().for_each(|&number| buffer.push(number));
        let x = Tensor {
            datatype: DataType::Int32,
            shape: [numbers.len() as i64 / 2, 2].as_slice().into(),
            data: Data::Raw(buffer),
        };
        let s = Tensor {
            datatype: DataType::Bytes,
            shape: [strings.len() as i64].as_slice().into(),
            data: Data::Strings(strings.iter().collect()),
        };
        let signature = signature();
        let mut inputs = Inputs::new(&signature);
        inputs.set(&signature, 0, x).unwrap();
        inputs.set(&signature, 1, s).unwrap();
        inputs
    }

    #[test]
    fn what_was_put_together_comes_apart_as_it_was() {
        let parts = [inputs(&[1, 2], &["a"]), inputs(&[3, 4, 5, 6], &["", "bc"]), inputs(&[7, 8], &["d"])];
        assert!(signature().has_free_rows());
        assert!(parts[0].joins(&parts[1]) && parts[1].joins(&parts[2]));
        let joined = Inputs::joined(&parts.each_ref());
        assert_eq!(joined.rows(), Some(4));
        assert_eq!(joined, inputs(&[1, 2, 3, 4, 5, 6, 7, 8], &["a", "", "bc", "d"]));
        let mut from = 0;
        for part in &parts {
            let to = from + part.rows().unwrap();
            for (index, tensor) in part.given() {
                let whole = ValueView::Tensor(joined.get(index).unwrap().view());
                let back = whole.with_rows(from..to, 4, Value::copy_of);
                assert_eq!(back, Some(Value::Tensor(tensor.clone())));
            }
            from = to;
        }
    }

    #[test]
    fn what_has_other_rows_than_said_does_not_come_apart() {
        let all = inputs(&[1, 2, 3, 4], &["a", "b"]);
        let whole = ValueView::Tensor(all.get(0).unwrap().view());
        assert_eq!(whole.with_rows(0..1, 3, |_| ()), None);
        let scalar = Tensor::zeros(DataType::Fp32, Shape::new()).unwrap();
        assert_eq!(ValueView::Tensor(scalar.view()).with_rows(0..1, 1, |_| ()), None);
    }

    #[test]
    fn inputs_of_unequal_rows_or_shapes_share_no_run() {
        assert_eq!(inputs(&[1, 2], &["a", "b"]).rows(), None);
        assert_eq!(inputs(&[], &[]).rows(), None);
        let signature = signature();
        let mut wide = Inputs::new(&signature);
        wide.set(&signature, 0, Tensor::zeros(DataType::Int32, [1, 3].as_slice().into()).unwrap()).unwrap();
        assert!(!wide.joins(&inputs(&[1, 2], &["a"])));
    }
}
