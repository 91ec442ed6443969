//! A scoring server with models that return their inputs.

use crate::connection::{Counts, Watched};
use drisse_core::{
    DataType, Dim, Engine, EngineOptions, LoadedPackage, ModelName, Port, ScorerLimits, Signature,
    TensorType, ValueType,
};
use drisse_engines::fake::{FakeEngine, Script};
use drisse_net::{Handler, Limits};
use drisse_scoring::{App, Config, LoadedModel, ModelSpec};
use std::sync::Arc;

/// Inputs: `X` FP32 [batch, 2] and `s` BYTES [batch], which is optional. The outputs are the same.
fn signature() -> Signature {
    let batch = Dim::Free(Some("batch".to_owned()));
    let port = |name: &str, datatype, shape| Port {
        name: name.to_owned(),
        kind: ValueType::Tensor(TensorType { datatype, shape: Some(shape) }),
        optional: name == "s",
    };
    let ports = || {
        vec![
            port("X", DataType::Fp32, vec![batch.clone(), Dim::Fixed(2)]),
            port("s", DataType::Bytes, vec![batch.clone()]),
        ]
    };
    Signature { inputs: ports(), outputs: ports() }
}

/// Starts a server with two models: `echo` runs on the connection's thread; `queued` runs on another, and every third
/// run fails.
pub fn start() -> Arc<App> {
    let limits = Limits { threads: 1, ..Limits::default() };
    let config = Config { limits, max_body: 1 << 20, max_held: 4 << 20, ..Config::default() };
    let app = App::new(config, None).expect("threads");
    let limits = ScorerLimits { concurrency: 1, steady: false, rows_independent: Ok(()) };
    let queued = Script { limits, fail_every: Some(3), ..Script::default() };
    let engine = FakeEngine::default().with("queued", queued);
    // With this large sample, every smaller request to `echo` runs inline from the start.
    let rows = vec!["[1,2]"; 4096].join(",");
    let warm =
        drisse_wire::score::decode(format!("{{\"data\":{{\"X\":[{rows}]}}}}").as_bytes(), &signature());
    let warm = warm.expect("a body");
    for name in ["echo", "queued"] {
        let package = LoadedPackage::new(name, signature());
        let scorer = engine.load(&package, &EngineOptions::default()).expect("a model");
        let spec = ModelSpec {
            sample: Some("{\"data\":{\"X\":[[1,2]]}}".to_owned()),
            ..ModelSpec::fake(ModelName::served(name).expect("a name"), signature(), scorer)
        };
        app.add(LoadedModel { spec, warm_up: Some(warm.clone()) });
    }
    app.set_ready();
    app
}

/// The handler of `app`, with its responses checked.
pub fn handler(app: &Arc<App>, counts: &'static Counts) -> Watched<impl Handler<Body: Unpin> + use<>> {
    Watched { handler: app.handler(), counts }
}
