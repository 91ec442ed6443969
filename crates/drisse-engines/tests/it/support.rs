//! One ONNX engine for all tests of the binary, and the models in `tests/models`.
use drisse_core::conformance::engine::Collected;
use drisse_core::{
    Buffer, Cancel, Data, DataType, Element, Engine, EngineOptions, Inputs, LoadedPackage, Result, Scorer,
    Shape, Tensor, Value, Work,
};
use drisse_engines::onnx::{OnnxEngine, cache_folder, fetch, find};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

static ENGINE: LazyLock<OnnxEngine> = LazyLock::new(|| {
    let cache = cache_folder();
    let named = std::env::var_os("DRISSE_ONNXRUNTIME").map(PathBuf::from);
    let library = find(named.as_deref(), &cache).expect("the library can be used");
    let library = library.unwrap_or_else(|| fetch(&cache).expect("pip can download ONNX Runtime"));
    OnnxEngine::new(&library, 2).expect("ONNX Runtime loads")
});

pub(crate) fn engine() -> &'static dyn Engine {
    &*ENGINE
}

pub(crate) fn package(name: &str) -> LoadedPackage {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"));
    drisse_registry::inspect(&path).expect("the models of the tests are valid").package()
}

pub(crate) struct Loaded {
    pub(crate) package: LoadedPackage,
    scorer: Box<dyn Scorer>,
}

pub(crate) fn load(name: &str) -> Loaded {
    let package = package(name);
    let scorer = engine().load(&package, &EngineOptions::default()).expect(name);
    Loaded { package, scorer }
}

impl Loaded {
    /// Runs the model with inputs in the signature's order, and returns all outputs in order.
    pub(crate) fn run(&self, tensors: impl IntoIterator<Item = Tensor>) -> Result<Vec<Value>> {
        let signature = &self.package.signature;
        let mut inputs = Inputs::new(signature);
        for (index, tensor) in tensors.into_iter().enumerate() {
            inputs.set(signature, index, tensor)?;
        }
        let outputs: Vec<_> = (0..signature.outputs.len()).collect();
        let mut out = Collected::default();
        self.scorer.score(Work { inputs: &inputs, outputs: &outputs }, &Cancel::new(), &mut out)?;
        Ok(out.0.into_iter().map(|(_, value)| value).collect())
    }
}

pub(crate) fn tensor<T: Element>(datatype: DataType, shape: &[i64], values: &[T]) -> Tensor {
    let mut buffer = Buffer::new();
    values.iter().for_each(|&value| buffer.push(value));
    Tensor { datatype, shape: Shape::from_slice(shape), data: Data::Raw(buffer) }
}

pub(crate) fn floats(shape: &[i64], values: &[f32]) -> Tensor {
    tensor(DataType::Fp32, shape, values)
}
