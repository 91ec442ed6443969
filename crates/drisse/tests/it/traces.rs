//! Traces, received by OpenTelemetry's own receiver (`tests/otlp`).

use crate::support::root;
use crate::workspace::Workspace;
use drisse_testkit::{PATIENCE, Request};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A running receiver and the spans that it has received.
struct Receiver {
    child: Child,
    endpoint: String,
    spans: mpsc::Receiver<Value>,
}

impl Receiver {
    /// Starts the receiver. Returns `None` if it is not built; it is required in CI.
    #[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
    fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("DRISSE_OTLP_RECEIVER") else {
            assert!(std::env::var_os("CI").is_none(), "`cargo xtask test` builds tests/otlp");
            eprintln!("not tested: no OTLP receiver (`cargo xtask test` builds it)");
            return None;
        };
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let (tell, spans) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let span = serde_json::from_str(&line).unwrap();
                if tell.send(span).is_err() {
                    return;
                }
            }
        });
        let endpoint = format!("http://{}", first["http"].as_str().unwrap());
        Some(Self { child, endpoint, spans })
    }

    /// Waits until a trace has `count` spans, and returns them.
    fn trace(&self, id: &str, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        while found.len() < count {
            let span = self.spans.recv_timeout(PATIENCE);
            let span = span.unwrap_or_else(|_| panic!("{count} spans of {id}, and not {found:#?}"));
            if span["trace_id"] == id {
                found.push(span);
            }
        }
        found
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_trace_goes_from_the_client_through_the_gateway_and_the_replica_to_the_engine() {
    let Some(receiver) = Receiver::start() else { return };
    let workspace = Workspace::new();
    // This command starts the control plane, which passes the settings to the gateway and the replica.
    let deployed = workspace
        .command(&["deploy", "examples/digits/digits.onnx", "--output", "json"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint)
        .env("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .output()
        .unwrap();
    let deployed: Value = serde_json::from_slice(&deployed.stdout).unwrap();
    let sample = std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap();
    let uri = deployed["scoring_uri"].as_str().unwrap();
    // The `traceparent` header follows the key, because `Request::new` takes no other headers.
    let key = format!(
        "{}\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01",
        deployed["primary_key"].as_str().unwrap()
    );
    let (status, answer) = Request::new(uri, Some(&key), &sample).send().unwrap();
    assert_eq!(status, 200, "{answer}");
    // Gateway: the request, and its wait for a permit. Replica: the request, the run, the encoding.
    let spans = receiver.trace(TRACE, 5);
    let of = |service: &str, name: &str| {
        let found = spans.iter().find(|span| span["service"] == service && span["name"] == name);
        found.unwrap_or_else(|| panic!("{name} of {service} in {spans:#?}"))
    };
    let gateway = of("drisse-gateway", "POST /api/v1/service/{service}");
    let replica = of("digits", "POST /score");
    assert_eq!(gateway["parent_span_id"], "00f067aa0ba902b7");
    assert_eq!(replica["parent_span_id"], gateway["span_id"]);
    assert_eq!(of("drisse-gateway", "wait")["parent_span_id"], gateway["span_id"]);
    for stage in ["compute", "encode"] {
        assert_eq!(of("digits", stage)["parent_span_id"], replica["span_id"]);
    }
    assert_eq!(replica["attributes"]["http.response.status_code"], 200);
    assert_eq!(replica["attributes"]["drisse.model"], "digits");
    let time = |span: &Value, which: &str| span[which].as_u64().unwrap();
    assert!(time(gateway, "start_unix_nano") < time(gateway, "end_unix_nano"));
    let own: Vec<_> = spans.iter().filter(|span| span["service"] == "digits").collect();
    assert!(own.iter().all(|span| time(span, "end_unix_nano") <= time(replica, "end_unix_nano") + 1_000_000));
}
