//! The inputs of one request, checked against the model's signature before anything runs.

use crate::{DataType, Dim, Error, Result, Shape, Signature, Tensor, TensorType, ValueType};

/// One place per input of the signature; `None` where the request leaves it out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(Vec<Option<Tensor>>);

impl Inputs {
    /// No input given yet, for a model of this signature.
    pub fn new(signature: &Signature) -> Self {
        Self(signature.inputs.iter().map(|_| None).collect())
    }

    /// Gives the input at `place`; an error when it was given before.
    pub fn set(&mut self, signature: &Signature, place: usize, tensor: Tensor) -> Result<()> {
        if self.0[place].replace(tensor).is_some() {
            let name = &signature.inputs[place].name;
            return Err(Error::invalid(format!("input `{name}` is given twice")));
        }
        Ok(())
    }

    /// The tensors given, with their places.
    pub fn given(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.0.iter().enumerate().filter_map(|(place, tensor)| Some((place, tensor.as_ref()?)))
    }

    /// The tensors given, with their places, to change.
    pub(crate) fn given_mut(&mut self) -> impl Iterator<Item = (usize, &mut Tensor)> {
        self.0.iter_mut().enumerate().filter_map(|(place, tensor)| Some((place, tensor.as_mut()?)))
    }

    /// The same inputs without a row; each has a first dimension.
    pub(crate) fn emptied(&self) -> Self {
        Self(self.0.iter().map(|tensor| tensor.as_ref().map(Tensor::emptied)).collect())
    }

    /// The tensor at `place`.
    pub fn get(&self, place: usize) -> Option<&Tensor> {
        self.0.get(place)?.as_ref()
    }

    /// Bytes of all elements.
    pub fn byte_len(&self) -> usize {
        self.given().map(|(_, tensor)| tensor.byte_len()).sum()
    }

    /// Whether every input fits the signature: none missing, shapes as the model wants them.
    /// Datatypes are the decoders' to keep.
    pub fn check(&self, signature: &Signature) -> Result<()> {
        for (port, tensor) in signature.inputs.iter().zip(&self.0) {
            let name = &*port.name;
            let Some(tensor) = tensor else {
                if port.optional || matches!(port.kind, ValueType::Optional(_)) {
                    continue;
                }
                let kind = &port.kind;
                return Err(Error::invalid(format!("input `{name}` is missing: the model wants {kind}")));
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

    /// The first dimension name that stands for two lengths, in words: the likely reason when a run
    /// fails. No refusal of its own: exporters give unrelated dimensions one name (`?`, `unk`).
    pub fn disagreement(&self, signature: &Signature) -> Option<String> {
        let mut known: Vec<(&str, i64, &str)> = Vec::new();
        for (place, tensor) in self.given() {
            let port = &signature.inputs[place];
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

    /// The smallest inputs the signature allows: zeros, free dimensions 1, optional inputs left out.
    /// `None` when an input is no tensor, has no JSON form, or would take over `max_bytes`.
    pub fn smallest(signature: &Signature, max_bytes: usize) -> Option<Self> {
        let mut left = max_bytes;
        let place = |port: &crate::Port| -> Option<Option<Tensor>> {
            if port.optional {
                return Some(None);
            }
            let wanted = port.tensor()?;
            let shape: Shape = wanted.shape.iter().flatten().map(Dim::smallest).collect();
            let elements = crate::element_count(&shape)?;
            // A string costs at least where it ends.
            let bytes = wanted.datatype.byte_size(elements).or(elements.checked_mul(size_of::<usize>()))?;
            left = left.checked_sub(bytes)?;
            wanted.datatype.has_json_form().then_some(())?;
            Some(Some(Tensor::zeros(wanted.datatype, shape)?))
        };
        signature.inputs.iter().map(place).collect::<Option<_>>().map(Self)
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

/// `input "X": shape [1, 63] does not match [batch, 64]`, and the fix where it is the usual mistake.
fn mismatch(name: &str, given: &[i64], wanted: &TensorType) -> String {
    let shown = wanted.shape_text();
    let mut message = format!("input \"{name}\": shape {given:?} does not match {shown}");
    if let Some([Dim::Free(_) | Dim::Fixed(1), rest @ ..]) = wanted.shape.as_deref() {
        let without = TensorType { datatype: DataType::Fp32, shape: Some(rest.to_vec()) };
        if without.accepts(given) {
            let fixed: Vec<i64> = std::iter::once(1).chain(given.iter().copied()).collect();
            message += &format!(
                "; the batch dimension is missing: send shape {fixed:?}, in JSON one more pair of brackets \
                 around the data"
            );
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;

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
        for (place, &shape) in shapes.iter().enumerate() {
            inputs.set(signature, place, Tensor::zeros(DataType::Fp32, shape.into()).unwrap()).unwrap();
        }
        inputs.check(signature).map_or_else(|error| error.to_string(), |()| "fits".to_owned())
    }

    #[test]
    fn a_wrong_shape_names_the_input_what_was_given_and_what_is_wanted() {
        let x = signature(&[("X", &[free("batch"), Dim::Fixed(64)])]);
        assert_eq!(check(&x, &[&[2, 64]]), "fits");
        assert_eq!(check(&x, &[&[1, 63]]), "input \"X\": shape [1, 63] does not match [batch, 64]");
        assert_eq!(check(&x, &[]), "input `X` is missing: the model wants FP32 [batch, 64]");
    }

    #[test]
    fn a_missing_batch_dimension_shows_the_fix() {
        let x = signature(&[("X", &[free("batch"), Dim::Fixed(64)])]);
        assert!(
            check(&x, &[&[64]])
                .ends_with("send shape [1, 64], in JSON one more pair of brackets around the data")
        );
    }

    #[test]
    fn dimensions_of_one_name_that_differ_are_told_and_not_refused() {
        let two = signature(&[("ids", &[free("batch")]), ("mask", &[free("batch")])]);
        let mut inputs = Inputs::new(&two);
        inputs.set(&two, 0, Tensor::zeros(DataType::Fp32, [3].as_slice().into()).unwrap()).unwrap();
        inputs.set(&two, 1, Tensor::zeros(DataType::Fp32, [4].as_slice().into()).unwrap()).unwrap();
        inputs.check(&two).unwrap();
        let told = "dimension `batch` is 4 in input `mask`, but 3 in input `ids`";
        assert_eq!(inputs.disagreement(&two).as_deref(), Some(told));
    }

    #[test]
    fn the_smallest_inputs_fit_and_are_bounded() {
        let x = signature(&[("X", &[free("batch"), Dim::Fixed(64)])]);
        Inputs::smallest(&x, 1 << 20).unwrap().check(&x).unwrap();
        let huge = signature(&[("X", &[Dim::Fixed(1 << 40)])]);
        assert_eq!(Inputs::smallest(&huge, 1 << 20), None);
    }
}
