//! Drisse's scoring server with a simulated GPU: it does one run at a time, whose duration hardly depends on the number
//! of rows. The model, `device`, returns its input `X`.

use drisse_core::{
    DataType, Dim, Engine, EngineOptions, LoadedPackage, ModelName, Port, ScorerLimits, Signature,
    TensorType, ValueType,
};
use drisse_engines::fake::{FakeEngine, Script};
use drisse_net::{Listener, bind_tcp};
use drisse_scoring::{App, Config, Listeners, LoadedModel, ModelSpec, Server};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "device";
const WIDTH: i64 = 64;

fn signature() -> Signature {
    let shape = vec![Dim::Free(Some("batch".to_owned())), Dim::Fixed(WIDTH)];
    let kind = ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape: Some(shape) });
    let x = Port { name: "X".to_owned(), kind, optional: false };
    Signature { inputs: vec![x.clone()], outputs: vec![x] }
}

fn model() -> ModelSpec {
    let script = Script {
        latency: Duration::from_millis(5),
        row: Duration::from_micros(50),
        limits: ScorerLimits { concurrency: 1, steady: true, rows_independent: Ok(()) },
        ..Script::default()
    };
    let package = LoadedPackage::new(NAME, signature());
    let engine = FakeEngine::default().with(NAME, script);
    let scorer = engine.load(&package, &EngineOptions::default()).expect("the model loads");
    ModelSpec::fake(ModelName::served(NAME).expect("a name"), signature(), scorer)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, admin, max_batch] = &*arguments else {
        eprintln!("device PORT ADMIN_PORT MAX_BATCH");
        return;
    };
    let max_batch = max_batch.parse().expect("a number");
    let app = App::new(Config { max_batch, ..Config::default() }, None).expect("threads");
    // The sample warms the model up; with it, the server also finds out that the model's requests can be batched.
    let numbers: Vec<_> = (0..WIDTH).map(|number| number.to_string()).collect();
    let sample = format!("{{\"data\":[[{}]]}}", numbers.join(","));
    let sample = drisse_wire::score::decode(sample.as_bytes(), &signature()).expect("a sample");
    app.add(LoadedModel { spec: model(), warm_up: Some(sample) });
    app.set_ready();
    let bound = |port: &str| {
        let address = format!("127.0.0.1:{port}").parse().expect("a port");
        Listener::Tcp(bind_tcp(address).expect("a free port"))
    };
    let listeners = Listeners { scoring: vec![bound(port)], admin: Some(bound(admin)) };
    let server = Server::new(Arc::clone(&app), listeners, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(server.run(std::future::pending())).expect("the server runs");
}
