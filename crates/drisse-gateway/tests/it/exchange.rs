//! What is recorded of a request, whichever protocol its client speaks.

use crate::scoring::{ScoringServer, infer, stream_infer};
use crate::support::{Running, document};
use drisse_wire::routes::RouteDocument;
use serde_json::Value;

const SCORE: &str = "/api/v1/service/s/score";

/// The digest of `secret`.
const DIGEST: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

#[test]
fn every_exchange_is_counted_and_logged_once_over_http_and_grpc() {
    let server = ScoringServer::start();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let gateway = Running::start();
    gateway.put(&RouteDocument {
        keys: vec![DIGEST.to_owned()],
        access_log: Some(log.display().to_string()),
        ..document(1, vec![server.route(&server.certificate)])
    });
    let (answer, _) = gateway.post(SCORE, "authorization: Bearer secret\r\n", "{\"data\":[[1,2]]}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(gateway.post(SCORE, "", "{}").0.starts_with("HTTP/1.1 401"));
    assert_eq!(infer(gateway.address, "secret").1["grpc-status"], "0");
    assert_eq!(infer(gateway.address, "other").0["grpc-status"], "16");
    let (_, metrics) = gateway.admin("GET", "/metrics", "");
    for class in ["2xx", "4xx"] {
        let counted = format!("drisse_gateway_requests_total{{service=\"s\",status=\"{class}\"}} 2");
        assert!(metrics.contains(&counted), "{metrics}");
    }
    // A gateway that ends writes its access logs out.
    drop(gateway);
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let logged: Vec<_> =
        lines.iter().map(|line| (line["path"].as_str().unwrap(), line["status"].as_u64())).collect();
    let infer = "/inference.GRPCInferenceService/ModelInfer";
    assert_eq!(logged, [(SCORE, Some(200)), (SCORE, Some(401)), (infer, Some(200)), (infer, Some(401))]);
    assert!(lines.iter().all(|line| line["name"] == "s" && line["method"] == "POST"), "{text}");
}

#[test]
fn a_stream_that_lasts_holds_no_permit() {
    let server = ScoringServer::start();
    let gateway = Running::start();
    let mut replica = server.route(&server.certificate);
    replica.concurrency = 1;
    gateway.put(&document(1, vec![replica]));
    let address = gateway.address;
    let trailers = stream_infer(address, move || assert_eq!(infer(address, "").1["grpc-status"], "0"));
    assert_eq!(trailers["grpc-status"], "0");
}
