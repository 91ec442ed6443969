//! The sample of a model: a request body that it takes.

use crate::error::{ControlError, Result};
use drisse_core::{Inputs, Signature};
use drisse_registry::ModelSource;
use drisse_wire::score;
use std::path::Path;

/// A sample that is made up is no larger than this in memory.
const MAX_MADE_SAMPLE: usize = 16 << 20;

/// A sample given is no larger than a body.
const MAX_SAMPLE: u64 = 100 << 20;

/// The sample to pack, and whether it was given for this model: one named must fit; a `sample.json` that
/// happens to lie there need not; without either the smallest inputs, of zeros.
pub(crate) fn sample(
    source: &ModelSource,
    named: Option<&Path>,
    tell: &dyn Fn(String),
) -> Result<(Option<Vec<u8>>, bool)> {
    let signature = &source.inspection.signature;
    let beside = source.sample.as_deref();
    if let Some(path) = named.or(beside) {
        match read_sample(path, signature) {
            Ok(bytes) => return Ok((Some(bytes), true)),
            Err(error) if named.is_some() => return Err(error),
            Err(error) => tell(format!("{}; it is left out", error.failure.message)),
        }
    }
    Ok((made_sample(signature), false))
}

/// The smallest inputs, of zeros.
pub(crate) fn made_sample(signature: &Signature) -> Option<Vec<u8>> {
    let made = Inputs::smallest(signature, MAX_MADE_SAMPLE);
    made.and_then(|inputs| score::encode(signature, &inputs)).map(String::into_bytes)
}

fn read_sample(path: &Path, signature: &Signature) -> Result<Vec<u8>> {
    let unfit = || ControlError::invalid(format!("{} is no sample for this model", path.display()));
    let file = std::fs::metadata(path).map_err(|error| unfit().because(&error))?;
    // A pipe would keep us waiting, a device never ends.
    if !file.is_file() {
        return Err(unfit().hint("a sample is a file"));
    }
    if file.len() > MAX_SAMPLE {
        return Err(unfit().hint("a sample is one request's body, at most 100 MiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| unfit().because(&error))?;
    let fits = score::decode(&bytes, signature).and_then(|inputs| inputs.check(signature));
    fits.map_err(|error| unfit().because(&error).hint("a sample is a body that /score takes"))?;
    Ok(bytes)
}
