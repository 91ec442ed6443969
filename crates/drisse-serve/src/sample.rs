//! The sample of a model: its first runs need inputs, and users get a request to copy.

use crate::error::ServeError;
use drisse_core::Inputs;
use drisse_registry::ModelSource;
use drisse_wire::score;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest generated sample, in bytes: a picture of 1024 × 1024 × 3 floats in JSON.
const MAX_GENERATED: usize = 16 << 20;

/// The largest sample file, in bytes: the largest body of a request.
const MAX_FILE: u64 = 100 << 20;

/// A model's sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The inputs; `None` if none can be generated.
    pub inputs: Option<Inputs>,
    /// The `/score` body, if the inputs have a JSON form.
    pub text: Option<String>,
    /// Where the sample comes from.
    pub origin: SampleOrigin,
}

/// Where a model's sample comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SampleOrigin {
    /// A file.
    File(PathBuf),
    /// Zeros in the smallest shape that the signature allows, as this `/score` body.
    Generated(String),
    /// There is no sample: JSON cannot carry the inputs, or they are too large to generate.
    None,
}

/// Finds or generates the sample of a model. The `given` file must fit the model; the model's own `sample.json` is used
/// only if it fits.
///
/// # Errors
/// [`ServeError::Sample`] if the `given` file cannot be read or does not fit the model.
pub fn sample(model: &ModelSource, given: Option<&Path>) -> Result<Sample, ServeError> {
    let signature = &model.inspection.signature;
    let read = |path: &Path| -> Result<Sample, Box<dyn std::error::Error + Send + Sync>> {
        let mut text = String::new();
        File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        let inputs = score::decode(text.as_bytes(), signature)?;
        inputs.check(signature)?;
        Ok(Sample { inputs: Some(inputs), text: Some(text), origin: SampleOrigin::File(path.to_owned()) })
    };
    if let Some(path) = given {
        return read(path).map_err(|source| ServeError::Sample { path: path.to_owned(), source });
    }
    if let Some(path) = &model.sample {
        match read(path) {
            Ok(sample) => return Ok(sample),
            Err(error) => tracing::warn!("{} is not a sample for this model: {error}", path.display()),
        }
    }
    for port in signature.inputs.iter().filter(|port| !port.optional) {
        if !port.tensor().is_some_and(|tensor| tensor.datatype.has_json_form()) {
            let (name, kind) = (&port.name, &port.kind);
            tracing::warn!("input `{name}` is {kind}, which JSON cannot carry: requests will be refused");
        }
    }
    let inputs = Inputs::smallest(signature, MAX_GENERATED);
    let text = inputs.as_ref().and_then(|inputs| score::encode(signature, inputs));
    let origin = text.clone().map_or(SampleOrigin::None, SampleOrigin::Generated);
    Ok(Sample { inputs, text, origin })
}
