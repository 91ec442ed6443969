//! The sample of a model: a valid request body.

use crate::error::{ControlError, Result};
use drisse_core::{Inputs, Signature};
use drisse_registry::ModelSource;
use drisse_wire::score;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The maximum size of a generated sample in memory, in bytes.
const MAX_MADE_SAMPLE: usize = 16 << 20;

/// The maximum size of a sample file in bytes: that of a request body.
pub(super) const MAX_SAMPLE: u64 = 100 << 20;

/// Returns the sample to pack, and whether it comes from a file. A sample that the user named must fit the model. A
/// `sample.json` beside the model is left out if it does not fit. Without a file, a sample of zeros is generated.
pub(crate) fn sample(
    source: &ModelSource,
    named: Option<&Path>,
    tell: &dyn Fn(String),
) -> Result<(Option<Vec<u8>>, bool)> {
    let signature = &source.inspection.signature;
    let beside = source.sample.as_deref();
    if let Some(path) = named.or(beside) {
        let opened = match named {
            Some(path) => open_regular(path),
            None => source.open_file(path).map_err(ControlError::from),
        };
        match opened.and_then(|file| read_sample(file, path, signature)) {
            Ok(bytes) => return Ok((Some(bytes), true)),
            Err(error) if named.is_some() => return Err(error),
            Err(error) => tell(format!("{}; it is left out", error.failure.message)),
        }
    }
    Ok((made_sample(signature), false))
}

/// Generates a sample of the smallest inputs, filled with zeros.
pub(crate) fn made_sample(signature: &Signature) -> Option<Vec<u8>> {
    let made = Inputs::smallest(signature, MAX_MADE_SAMPLE);
    made.and_then(|inputs| score::encode(signature, &inputs)).map(String::into_bytes)
}

fn unfit(path: &Path) -> ControlError {
    ControlError::invalid(format!("{} is not a sample for this model", path.display()))
}

/// Opens the file that the user named.
fn open_regular(path: &Path) -> Result<File> {
    let file = std::fs::metadata(path).map_err(|error| unfit(path).because(&error))?;
    // Reading a pipe could block, and a device may have no end.
    if !file.is_file() {
        return Err(unfit(path).hint("a sample must be a regular file"));
    }
    File::open(path).map_err(|error| unfit(path).because(&error))
}

fn read_sample(file: File, path: &Path, signature: &Signature) -> Result<Vec<u8>> {
    let unfit = || unfit(path);
    let mut bytes = Vec::new();
    file.take(MAX_SAMPLE + 1).read_to_end(&mut bytes).map_err(|error| unfit().because(&error))?;
    if bytes.len() as u64 > MAX_SAMPLE {
        return Err(unfit().hint("a sample is the body of one request, at most 100 MiB"));
    }
    let fits = score::decode(&bytes, signature).and_then(|inputs| inputs.check(signature));
    fits.map_err(|error| unfit().because(&error).hint("a sample is a request body that `/score` accepts"))?;
    Ok(bytes)
}
