//! The inputs of one request, checked against the model's signature before anything runs.

use crate::{DataType, Dim, Error, Result, Shape, Signature, Tensor, TensorType};

/// The inputs of one request, in the order of [`Signature::inputs`]. A request can leave out optional inputs.
///
/// ```
/// use drisse_core::{DataType, Dim, Inputs, Port, Signature, Tensor, TensorType, ValueType};
///
/// let shape = Some(vec![Dim::Free(Some("batch".to_owned())), Dim::Fixed(64)]);
/// let kind = ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape });
/// let port = Port { name: "x".to_owned(), kind, optional: false };
/// let signature = Signature { inputs: vec![port], outputs: vec![] };
/// let mut inputs = Inputs::new(&signature);
/// inputs.set(&signature, 0, Tensor::zeros(DataType::Fp32, [2, 64].as_slice().into()).expect("512 bytes"))?;
/// inputs.check(&signature)?;
/// # Ok::<(), drisse_core::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(Vec<Option<Tensor>>);

impl Inputs {
    /// Creates inputs for a model with this signature, all of them missing.
    pub fn new(signature: &Signature) -> Self {
        Self(signature.inputs.iter().map(|_| None).collect())
    }

    /// Sets the input at `index` of [`Signature::inputs`].
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if this input was set before.
    ///
    /// # Panics
    /// Panics if `index` is out of range.
    pub fn set(&mut self, signature: &Signature, index: usize, tensor: Tensor) -> Result<()> {
        if self.0[index].replace(tensor).is_some() {
            let name = &signature.inputs[index].name;
            return Err(Error::invalid(format!("input `{name}` is given twice")));
        }
        Ok(())
    }

    /// Iterates over the tensors that are set, with their indices in [`Signature::inputs`].
    pub fn given(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.0.iter().enumerate().filter_map(|(index, tensor)| Some((index, tensor.as_ref()?)))
    }

    /// Iterates over the tensors that are set, with their indices, and allows changing them.
    pub fn given_mut(&mut self) -> impl Iterator<Item = (usize, &mut Tensor)> {
        self.0.iter_mut().enumerate().filter_map(|(index, tensor)| Some((index, tensor.as_mut()?)))
    }

    /// Returns the same inputs with 0 rows. Every tensor must have a first dimension.
    pub(crate) fn emptied(&self) -> Self {
        Self(self.0.iter().map(|tensor| tensor.as_ref().map(Tensor::emptied)).collect())
    }

    /// Returns the tensor at `index`; `None` if it is not set.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index)?.as_ref()
    }

    /// Returns the size of all elements, in bytes.
    pub fn byte_len(&self) -> usize {
        self.given().map(|(_, tensor)| tensor.byte_len()).sum()
    }

    /// Checks that all required inputs are set and that every shape fits the signature. The decoders have already
    /// checked the datatypes.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), naming the first input that is missing or has another shape.
    pub fn check(&self, signature: &Signature) -> Result<()> {
        for (port, tensor) in signature.inputs.iter().zip(&self.0) {
            let name = &*port.name;
            let Some(tensor) = tensor else {
                if port.may_be_absent() {
                    continue;
                }
                let kind = &port.kind;
                return Err(Error::invalid(format!("input `{name}` is missing: the model requires {kind}")));
            };
            match port.tensor() {
                Some(wanted) if !wanted.accepts(&tensor.shape) => {
                    return Err(Error::invalid(mismatch(name, &tensor.shape, wanted)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Describes the first named dimension that has two different lengths: the likely reason if a run fails. `None` if
    /// all agree. This alone is not an error, because exporters give unrelated dimensions the same name (`?`, `unk`).
    pub fn disagreement(&self, signature: &Signature) -> Option<String> {
        let mut known: Vec<(&str, i64, &str)> = Vec::new();
        for (index, tensor) in self.given() {
            let port = &signature.inputs[index];
            let dims = port.tensor().and_then(|wanted| wanted.shape.as_deref()).unwrap_or_default();
            for (dim, &length) in dims.iter().zip(&tensor.shape) {
                let Dim::Free(Some(dim)) = dim else { continue };
                match known.iter().find(|(name, ..)| name == dim) {
                    None => known.push((dim, length, &port.name)),
                    Some(&(_, before, _)) if before == length => {}
                    Some((_, before, other)) => {
                        let name = &port.name;
                        return Some(format!(
                            "dimension `{dim}` is {length} in input `{name}`, but {before} in input `{other}`"
                        ));
                    }
                }
            }
        }
        None
    }

    /// Creates the smallest inputs that the signature allows: zeros, free dimensions of 1, no optional inputs. `None`
    /// if an input is not a tensor or has no JSON form, or if all inputs together exceed `max_bytes`.
    pub fn smallest(signature: &Signature, max_bytes: usize) -> Option<Self> {
        let mut left = max_bytes;
        let smallest = |port: &crate::Port| -> Option<Option<Tensor>> {
            if port.optional {
                return Some(None);
            }
            let wanted = port.tensor()?;
            let shape: Shape = wanted.shape.iter().flatten().map(Dim::smallest).collect();
            let elements = crate::element_count(&shape)?;
            // A string takes at least the offset of its end.
            let bytes = wanted.datatype.byte_size(elements).or(elements.checked_mul(size_of::<usize>()))?;
            left = left.checked_sub(bytes)?;
            wanted.datatype.has_json_form().then_some(())?;
            Some(Some(Tensor::zeros(wanted.datatype, shape)?))
        };
        signature.inputs.iter().map(smallest).collect::<Option<_>>().map(Self)
    }
}

impl Dim {
    fn smallest(&self) -> i64 {
        match self {
            Self::Fixed(length) => *length,
            Self::Free(_) => 1,
        }
    }
}

/// Returns `input "X": shape [1, 63] does not match [batch, 64]`, and the fix if only the batch dimension is missing.
fn mismatch(name: &str, given: &[i64], wanted: &TensorType) -> String {
    let shown = wanted.shape_text();
    let mut message = format!("input \"{name}\": shape {given:?} does not match {shown}");
    if let Some([Dim::Free(_) | Dim::Fixed(1), rest @ ..]) = wanted.shape.as_deref() {
        let without = TensorType { datatype: DataType::Fp32, shape: Some(rest.to_vec()) };
        if without.accepts(given) {
            let fixed: Vec<i64> = std::iter::once(1).chain(given.iter().copied()).collect();
            message += &format!(
                "; the batch dimension is missing: send shape {fixed:?}; in JSON, put one more pair of brackets \
                 around the data"
            );
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Port, ValueType};

    fn signature(ports: &[(&str, &[Dim])]) -> Signature {
        let port = |&(name, dims): &(&str, &[Dim])| Port {
            name: name.to_owned(),
            kind: ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape: Some(dims.to_vec()) }),
            optional: false,
        };
        Signature { inputs: ports.iter().map(port).collect(), outputs: vec![] }
    }

    fn free(name: &str) -> Dim {
        Dim::Free(Some(name.to_owned()))
    }

    fn check(signature: &Signature, shapes: &[&[i64]]) -> String {
        let mut inputs = Inputs::new(signature);
        for (index, &shape) in shapes.iter().enumerate() {
            inputs.set(signature, index, Tensor::zeros(DataType::Fp32, shape.into()).unwrap()).unwrap();
        }
        inputs.check(signature).map_or_else(|error| error.to_string(), |()| "fits".to_owned())
    }

    #[test]
    fn a_wrong_shape_names_the_input_what_was_given_and_what_is_wanted() {
        let x = signature(&[("X", &[free("batch"), Dim::Fixed(64)])]);
        assert_eq!(check(&x, &[&[2, 64]]), "fits");
        assert_eq!(check(&x, &[&[1, 63]]), "input \"X\": shape [1, 63] does not match [batch, 64]");
        assert_eq!(check(&x, &[]), "input `X` is missing: the model requires FP32 [batch, 64]");
    }

    #[test]
    fn a_missing_batch_dimension_shows_the_fix() {
        let x = signature(&[("X", &[free("batch"), Dim::Fixed(64)])]);
        assert!(
            check(&x, &[&[64]])
                .ends_with("send shape [1, 64]; in JSON, put one more pair of brackets around the data")
        );
    }

    #[test]
    fn dimensions_of_one_name_that_differ_are_described_and_not_refused() {
        let two = signature(&[("ids", &[free("batch")]), ("mask", &[free("batch")])]);
        let mut inputs = Inputs::new(&two);
        inputs.set(&two, 0, Tensor::zeros(DataType::Fp32, [3].as_slice().into()).unwrap()).unwrap();
        inputs.set(&two, 1, Tensor::zeros(DataType::Fp32, [4].as_slice().into()).unwrap()).unwrap();
        inputs.check(&two).unwrap();
        let reason = "dimension `batch` is 4 in input `mask`, but 3 in input `ids`";
        assert_eq!(inputs.disagreement(&two).as_deref(), Some(reason));
    }

    #[test]
    fn the_smallest_inputs_fit_and_are_bounded() {
        let x = signature(&[("X", &[free("batch"), Dim::Fixed(64)])]);
        Inputs::smallest(&x, 1 << 20).unwrap().check(&x).unwrap();
        let huge = signature(&[("X", &[Dim::Fixed(1 << 40)])]);
        assert_eq!(Inputs::smallest(&huge, 1 << 20), None);
    }
}
