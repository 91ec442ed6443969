//! The one place that knows every engine and every target.

use crate::failure::Failure;
use crate::printer;
use anyhow::Context;
use drisse_core::Engine;
use drisse_engines::onnx::{self, OnnxEngine};
use std::path::{Path, PathBuf};

const NAME_ONE: &str = "name a library with --onnxruntime FILE or DRISSE_ONNXRUNTIME: `pip download --no-deps \
                        onnxruntime`, unzip the wheel, onnxruntime/capi/libonnxruntime.so.*";

/// ONNX Runtime's library: the one named, found, or fetched.
pub(crate) fn onnx_library(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let cache = onnx::cache_folder();
    let find = || -> anyhow::Result<_> {
        if let Some(found) = onnx::find(named, &cache).context("cannot use ONNX Runtime")? {
            return Ok(found);
        }
        let (version, shown) = (onnx::PINNED, cache.display());
        printer::note(&format!("ONNX Runtime {version} is not on this machine: fetching it into {shown}"));
        onnx::fetch(&cache).context("cannot get ONNX Runtime")
    };
    find().map_err(|error| Failure::from(error).hint(NAME_ONE))
}

/// The engine for ONNX models.
pub(crate) fn onnx_engine(library: &Path, threads: usize) -> Result<Box<dyn Engine>, Failure> {
    match OnnxEngine::new(library, threads).context("cannot start ONNX Runtime") {
        Ok(engine) => Ok(Box::new(engine)),
        Err(error) => Err(Failure::from(error).hint(NAME_ONE)),
    }
}
