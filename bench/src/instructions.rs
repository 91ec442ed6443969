//! Serves the same request again and again, on one thread and without a socket, so that callgrind can count the
//! instructions of a request besides its model (`cargo xtask count`). Unlike times, the counts do not depend on how
//! busy the machine is.
//!
//! The server is complete: HTTP, keys, IDs, metrics, admission. The model returns constant outputs with the shapes of
//! the digits example, and runs on the connection's thread as tiny models do.

mod client;
mod requests;

use client::Client;
use drisse_core::{
    Buffer, Cancel, Data, DataType, Dim, ModelName, Port, Result, Scorer, ScorerLimits, Shape, Signature,
    Sink, Tensor, TensorType, ValueType, ValueView, Work,
};
use drisse_net::{Limits, serve_connection};
use drisse_scoring::{App, Config, Keys, LoadedModel, ModelSpec};
use requests::Protocol;
use std::io::Write;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};

/// Requests before counting begins, so that everything that stays allocated has been allocated.
const WARM_UP: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, count] = &arguments[..] else { panic!("instructions PROTOCOL REQUESTS") };
    let protocol = Protocol::named(protocol).expect("v2_json, v2_binary, score or grpc");
    let count = WARM_UP + count.parse::<usize>().expect("a number of requests");
    // Logging is set up as in the program, so that checks of the log level are counted too.
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).json().init();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(protocol, count);
    let app = app();
    #[expect(clippy::disallowed_methods, reason = "the task ends with the runtime")]
    runtime.spawn(serve_connection(client.clone(), app.handler(), app_config().limits));
    runtime.block_on(client.answered(WARM_UP));
    counted(&runtime, &client, count);
    // Checks that every response has the model's output.
    assert_eq!(client.heard(requests::OUTPUT.as_bytes()), count, "answers");
}

/// The function whose instructions are counted: `cargo xtask count` passes its name to callgrind.
#[inline(never)]
fn counted(runtime: &Runtime, client: &Client, count: usize) {
    runtime.block_on(client.answered(count));
    // Prevents a tail call, with which this function would end before the counted work.
    std::hint::black_box(client);
}

fn app_config() -> Config {
    Config { limits: Limits { threads: 1, ..Limits::default() }, workers: 1, ..Config::default() }
}

/// A server with one model and with keys.
fn app() -> Arc<App> {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "another-key\n{}", requests::KEY).expect("a file that takes keys");
    let keys = Keys::open(file.path()).expect("keys");
    let app = App::new(app_config(), Some(keys)).expect("threads");
    let signature = signature();
    let warm_up = drisse_wire::score::decode(requests::score_body().as_bytes(), &signature);
    let name = ModelName::served(requests::MODEL).expect("a name");
    let spec = ModelSpec::fake(name, signature, Box::new(Digits::new()));
    app.add(LoadedModel { spec, warm_up: Some(warm_up.expect("a body")) });
    app.set_ready();
    app
}

/// Input: `pixels` FP32 `[batch, 64]`. Outputs: `label` INT64 `[batch]` and `probabilities` FP32 `[batch, 10]`.
fn signature() -> Signature {
    let port = |name: &str, datatype, length: Option<i64>| {
        let dims = std::iter::once(Dim::Free(Some("batch".to_owned()))).chain(length.map(Dim::Fixed));
        let kind = ValueType::Tensor(TensorType { datatype, shape: Some(dims.collect()) });
        Port { name: name.to_owned(), kind, optional: false }
    };
    Signature {
        inputs: vec![port(requests::INPUT, DataType::Fp32, Some(requests::PIXELS as i64))],
        outputs: vec![port("label", DataType::Int64, None), port(requests::OUTPUT, DataType::Fp32, Some(10))],
    }
}

/// A model that returns prepared outputs and does no work.
struct Digits([Tensor; 2]);

impl Digits {
    fn new() -> Self {
        let (mut label, mut probabilities) = (Buffer::new(), Buffer::new());
        label.push(3_i64);
        (0..10).for_each(|digit| probabilities.push(1.0 / (digit as f32 + 3.3)));
        let tensor = |datatype, shape: &[i64], data| {
            let (shape, data) = (Shape::from_slice(shape), Data::Raw(data));
            Tensor { datatype, shape, data }
        };
        Self([tensor(DataType::Int64, &[1], label), tensor(DataType::Fp32, &[1, 10], probabilities)])
    }
}

impl Scorer for Digits {
    fn limits(&self) -> ScorerLimits {
        ScorerLimits { concurrency: 1, steady: true, rows_independent: Err("batching is not measured here") }
    }

    fn score(&self, work: Work<'_>, _: &Cancel, out: &mut dyn Sink) -> Result<()> {
        work.outputs.iter().try_for_each(|&index| out.output(index, ValueView::Tensor(self.0[index].view())))
    }
}
