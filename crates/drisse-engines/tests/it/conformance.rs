//! The conformance suite for every engine; tests of ONNX Runtime alone are in `onnx.rs`.

use drisse_core::conformance::engine::{Fixture, all};
use drisse_core::{Dim, LoadedPackage, Port, Signature, TensorType, ValueType};
use drisse_engines::fake::{FakeEngine, Script};
use std::time::Duration;

#[test]
fn onnx_keeps_every_promise() {
    let fixture = Fixture {
        echo: crate::support::package("echo"),
        slow: crate::support::package("slow"),
        broken: (crate::support::package("unknown_operator"), "Nope"),
    };
    all(crate::support::engine(), &fixture);
}

#[test]
fn fake_keeps_every_promise() {
    let engine = FakeEngine::default()
        .with("slow", Script { step: Some(Duration::from_millis(1)), ..Script::default() })
        .with("broken", Script { load_error: Some("scripted".to_owned()), ..Script::default() });
    let package = |path: &str| {
        let datatype =
            if path == "slow" { drisse_core::DataType::Int64 } else { drisse_core::DataType::Fp32 };
        let kind = ValueType::Tensor(TensorType { datatype, shape: Some(vec![Dim::Free(None)]) });
        let port = Port { name: "x".to_owned(), kind, optional: false };
        let signature = Signature { inputs: vec![port.clone()], outputs: vec![port] };
        LoadedPackage::new(path, signature)
    };
    let fixture =
        Fixture { echo: package("echo"), slow: package("slow"), broken: (package("broken"), "scripted") };
    all(&engine, &fixture);
}
