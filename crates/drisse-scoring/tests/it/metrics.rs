//! What Prometheus reads of a server.

use crate::support::{Running, Setup, start};
use drisse_engines::fake::Script;
use drisse_scoring::Config;
use drisse_wire::grpc::inference::ModelInferRequest;
use drisse_wire::grpc::inference::model_infer_request::InferInputTensor;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

const BODY: &str = "{\"data\":[[1,2]]}";

#[test]
fn the_parts_of_a_requests_time_are_told_apart() {
    let server = start();
    for _ in 0..3 {
        assert_eq!(server.post("/score", BODY).status, 200);
    }
    let part = |part: &str, what: &str| {
        server.metric(&format!("drisse_{part}_duration_seconds_{what}{{model=\"echo\"}} "))
    };
    for name in ["request", "compute", "encode"] {
        assert_eq!(part(name, "count"), 3.0, "{name}");
        assert!(part(name, "sum") > 0.0, "{name}");
    }
    assert!(part("compute", "sum") + part("encode", "sum") <= part("request", "sum"));
}

#[test]
fn columns_that_are_ignored_are_named_in_a_header_and_counted() {
    let server = start();
    let header = |path: &str, body: &str| {
        let answer = server.post(path, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let name = "x-drisse-ignored-columns: ";
        answer.headers.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    };
    let records = "{\"dataframe_records\":[{\"id\":7,\"X\":[1,2],\"a,b\":null}]}";
    assert_eq!(header("/invocations", records).as_deref(), Some("id, a%2cb"));
    assert_eq!(header("/score", records).as_deref(), Some("id, a%2cb"));
    assert_eq!(header("/score", BODY), None);
    assert_eq!(server.metric("drisse_ignored_columns_total{model=\"echo\"} "), 4.0);
}

/// Asks for inference over gRPC with these inputs, whose elements are zeros of 8 bytes.
fn infer(server: &Running, inputs: Vec<InferInputTensor>) {
    let model_name = "echo".to_owned();
    let raw_input_contents = inputs.iter().map(|_| vec![0; 8].into()).collect();
    let message =
        ModelInferRequest { model_name, inputs, raw_input_contents, ..ModelInferRequest::default() };
    let body = Full::new(drisse_wire::grpc::frame(&message));
    let address = server.address;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        let call = async {
            let path = "http://h/inference.GRPCInferenceService/ModelInfer";
            let request = hyper::Request::post(path).header("content-type", "application/grpc");
            let response = sender.send_request(request.body(body).unwrap()).await.unwrap();
            response.into_body().collect().await.unwrap();
        };
        tokio::select! {
            () = call => {}
            _ = connection => panic!("the connection ended before the call"),
        }
    });
}

#[test]
fn a_grpc_call_is_counted_for_its_model_as_a_request_over_http_is() {
    let server = start();
    let (name, datatype, shape) = ("X".to_owned(), "FP32".to_owned(), vec![1, 2]);
    infer(&server, vec![InferInputTensor { name, datatype, shape, ..InferInputTensor::default() }]);
    infer(&server, Vec::new());
    let count =
        |status: u16| server.metric(&format!("drisse_requests_total{{model=\"echo\",status=\"{status}\"}} "));
    assert_eq!((count(200), count(400)), (1.0, 1.0));
    assert_eq!(server.metric("drisse_request_duration_seconds_count{model=\"echo\"} "), 2.0);
}

#[test]
fn tritons_names_say_the_same_where_they_are_asked_for() {
    let script = Script { fail_every: Some(4), ..Script::default() };
    let config = Config { triton_metrics: true, ..Config::default() };
    let server = Setup { config, models: vec![("echo", script)], ..Setup::default() }.start();
    let statuses: Vec<_> = (0..4).map(|_| server.post("/score", BODY).status).collect();
    assert_eq!(statuses, [200, 200, 200, 400]);
    let triton = |name: &str, more: &str| {
        server.metric(&format!("nv_inference_{name}{{model=\"echo\",version=\"1\"{more}}} "))
    };
    assert_eq!((triton("request_success", ""), triton("exec_count", "")), (3.0, 4.0));
    assert_eq!(triton("request_failure", ",reason=\"OTHER\""), 1.0);
    assert!(triton("request_duration_us", "") >= triton("compute_infer_duration_us", ""));
    let text = server.admin("GET", "/metrics", "accept: application/openmetrics-text\r\n").body;
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    assert!(!start().admin("GET", "/metrics", "").body.contains("nv_"), "not unless asked for");
}
