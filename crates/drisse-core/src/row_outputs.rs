//! Which outputs have one entry per row of the inputs, so that an answer may be split into rows.

use crate::{Dim, Inputs, Port, Signature, Value, ValueType, ValueView};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The outputs of a model that may have one entry per row of the inputs. Begins with what the signature says, and learns
/// from runs: an output that once had another number of entries never has rows again, so that the form of an answer does
/// not depend on a coincidence.
#[derive(Debug)]
pub struct RowOutputs {
    may_have_rows: Box<[AtomicBool]>,
    sure: bool,
}

impl RowOutputs {
    /// Returns what the signature says of each output.
    pub fn of(signature: &Signature) -> Self {
        let said = || (0..signature.outputs.len()).map(|output| signature.has_rows(output));
        let may_have_rows = said().map(|said| AtomicBool::new(said != Some(false))).collect();
        Self { may_have_rows, sure: said().all(|said| said.is_some()) }
    }

    /// Returns whether the signature says of every output whether it has rows. If not, runs of different numbers of rows
    /// show it.
    pub fn is_sure(&self) -> bool {
        self.sure
    }

    /// Learns that an output has no rows.
    pub fn set_without_rows(&self, output: usize) {
        self.may_have_rows[output].store(false, Relaxed);
    }

    /// Returns whether the value of an output has an entry for each of `rows` rows, and learns if it has another number.
    pub fn has_rows(&self, output: usize, value: &ValueView<'_>, rows: usize) -> bool {
        let may = &self.may_have_rows[output];
        if !may.load(Relaxed) {
            return false;
        }
        let entries = match value {
            // Smaller elements cannot be split.
            ValueView::Tensor(tensor) if !tensor.datatype.is_whole_bytes() => None,
            ValueView::Tensor(tensor) => {
                tensor.shape.first().and_then(|&length| usize::try_from(length).ok())
            }
            ValueView::Other(Value::Tensor(tensor)) => {
                return self.has_rows(output, &ValueView::Tensor(tensor.view()), rows);
            }
            ValueView::Other(value) => value.rows(),
        };
        if entries != Some(rows) {
            self.set_without_rows(output);
        }
        entries == Some(rows)
    }
}

impl Signature {
    /// Returns whether an output has one entry per row of the inputs; `None` if its type does not tell. A tensor has if
    /// its first dimension has the name of the inputs' first dimension, or is 1 as theirs; another fixed length may be equal
    /// by chance. A sequence of maps has, as classifiers return it; the tensors of a sequence are one per target or time
    /// step.
    pub fn has_rows(&self, output: usize) -> Option<bool> {
        let shapes = || self.inputs.iter().filter_map(|port| port.tensor()?.shape.as_deref());
        let firsts = || shapes().filter_map(<[Dim]>::first);
        if self.inputs.is_empty() {
            return Some(false);
        }
        let shape = match &self.outputs[output].kind {
            ValueType::Tensor(tensor) => tensor.shape.as_deref()?,
            ValueType::Sequence(of) => return Some(matches!(**of, ValueType::Map { .. })),
            ValueType::Map { .. } | ValueType::Optional(_) | ValueType::Other(_) => return Some(false),
        };
        match shape.first() {
            None => Some(false),
            Some(fixed @ Dim::Fixed(length)) => {
                let same = firsts().count() > 0 && firsts().all(|first| first == fixed);
                (!same || *length == 1).then_some(same)
            }
            // Rows of a fixed number do not become a number that is free.
            Some(Dim::Free(_)) if self.inputs.iter().all(has_fixed_rows) => Some(false),
            Some(Dim::Free(None)) => None,
            Some(free) => {
                let first = firsts().any(|first| first == free);
                shapes().any(|shape| shape.contains(free)).then_some(first)
            }
        }
    }
}

fn has_fixed_rows(input: &Port) -> bool {
    let shape = input.tensor().and_then(|tensor| tensor.shape.as_deref());
    matches!(shape, Some([Dim::Fixed(_), ..] | []))
}

impl Signature {
    /// Returns whether an input is one value for all rows of a request: it has the shape `[]` or `[1]`, beside others that
    /// have rows.
    pub fn is_beside_rows(&self, input: usize) -> bool {
        fn dims(port: &Port) -> Option<&[Dim]> {
            port.tensor()?.shape.as_deref()
        }
        let one = Dim::Fixed(1);
        dims(&self.inputs[input]).is_some_and(|dims| dims.iter().all(|dim| *dim == one))
            && self
                .inputs
                .iter()
                .any(|port| dims(port).and_then(<[Dim]>::first).is_some_and(|first| *first != one))
    }
}

impl Inputs {
    /// Returns the length of the first dimension that all given inputs share, except those that are
    /// [beside rows](Signature::is_beside_rows); `None` if there are no inputs, if one is a scalar, or if the lengths
    /// differ.
    pub fn row_count(&self, signature: &Signature) -> Option<usize> {
        let with_rows = self.given().filter(|(index, _)| !signature.is_beside_rows(*index));
        let mut counts = with_rows.map(|(_, tensor)| usize::try_from(*tensor.shape.first()?).ok());
        let count = counts.next()??;
        counts.all(|other| other == Some(count)).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataType, Shape, Tensor, TensorType};

    fn free(name: &str) -> Dim {
        Dim::Free(Some(name.to_owned()))
    }

    fn tensor(dims: &[Dim]) -> ValueType {
        ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape: Some(dims.to_vec()) })
    }

    fn signature(inputs: &[&[Dim]], output: ValueType) -> Signature {
        let port = |kind| Port { name: "x".to_owned(), kind, optional: false };
        let inputs = inputs.iter().map(|dims| port(tensor(dims))).collect();
        Signature { inputs, outputs: vec![port(output)] }
    }

    #[test]
    fn the_signature_tells_of_most_outputs_whether_they_have_rows() {
        let (any, two) = (Dim::Free(None), Dim::Fixed(2));
        let map = ValueType::Map { key: DataType::Int64, value: Box::new(tensor(&[])) };
        let (rows, fixed, steps) =
            ([free("n"), two.clone()], [two.clone(), two.clone()], [free("n"), free("steps")]);
        for (inputs, output, said) in [
            (&[&rows[..]][..], tensor(&[free("n")]), Some(true)),
            (&[&rows], tensor(&[two.clone(), free("n")]), Some(false)),
            (&[&rows], tensor(&[free("unk__7"), two.clone()]), None),
            (&[&rows], tensor(std::slice::from_ref(&any)), None),
            (&[&rows], tensor(&[]), Some(false)),
            (&[&rows], ValueType::Sequence(Box::new(map)), Some(true)),
            (&[&rows], ValueType::Sequence(Box::new(tensor(&[free("n")]))), Some(false)),
            (&[&steps], tensor(&[free("steps"), free("n")]), Some(false)),
            (&[&fixed], tensor(std::slice::from_ref(&two)), None),
            (&[&[Dim::Fixed(1)]], tensor(&[Dim::Fixed(1)]), Some(true)),
            (&[&fixed], tensor(&[Dim::Fixed(3)]), Some(false)),
            (&[&fixed], tensor(&[free("found"), two.clone()]), Some(false)),
            (&[], tensor(std::slice::from_ref(&any)), Some(false)),
        ] {
            assert_eq!(signature(inputs, output.clone()).has_rows(0), said, "{inputs:?} to {output:?}");
        }
    }

    #[test]
    fn one_value_for_all_rows_does_not_count_as_a_row() {
        let (rows, one) = ([free("n"), Dim::Fixed(2)], [Dim::Fixed(1)]);
        let mixed = signature(&[&rows, &[], &one], tensor(&[]));
        assert_eq!([0, 1, 2].map(|input| mixed.is_beside_rows(input)), [false, true, true]);
        let ones = signature(&[&one, &one], tensor(&[]));
        assert!(!ones.is_beside_rows(0), "the only rows there are");
        let mut inputs = Inputs::new(&mixed);
        for (index, shape) in [&[3, 2][..], &[], &[1]].into_iter().enumerate() {
            let tensor = Tensor::zeros(DataType::Fp32, Shape::from_slice(shape)).unwrap();
            inputs.set(&mixed, index, tensor).unwrap();
        }
        assert_eq!(inputs.row_count(&mixed), Some(3));
    }

    #[test]
    fn an_output_that_once_had_another_number_of_entries_never_has_rows_again() {
        let any = Dim::Free(None);
        let outputs =
            RowOutputs::of(&signature(&[std::slice::from_ref(&any)], tensor(std::slice::from_ref(&any))));
        let two = Tensor::zeros(DataType::Fp32, Shape::from_slice(&[2])).unwrap();
        let two = ValueView::Tensor(two.view());
        assert!(!outputs.is_sure());
        assert!(outputs.has_rows(0, &two, 2));
        assert!(!outputs.has_rows(0, &two, 1));
        assert!(!outputs.has_rows(0, &two, 2));
    }
}
