//! Replicas at `https://` addresses: real scoring servers with certificates of their own.

use crate::scoring::{ScoringServer, infer};
use crate::support::{Running, document};
use drisse_testkit::header;
use drisse_wire::grpc::{inference::ModelInferResponse, only_frame, parse};
use std::io::Write;
use std::sync::{Mutex, Once};

const SCORE: &str = "/api/v1/service/s/score";

/// The log of this process.
#[derive(Clone)]
struct Log;

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Collects the log from now on.
fn collect_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Log).init());
}

#[test]
fn a_replica_with_tls_is_scored_over_http_and_grpc() {
    let server = ScoringServer::start();
    let gateway = Running::start();
    gateway.put(&document(1, vec![server.route(&server.certificate)]));
    for _ in 0..2 {
        let (answer, body) = gateway.post(SCORE, "", "{\"data\":[[1,2]]}");
        assert!(answer.starts_with("HTTP/1.1 200") && body == "{\"X\":[[1.0,2.0]]}", "{answer}{body}");
        let (_, trailers, body) = infer(gateway.address, "");
        assert_eq!(trailers["grpc-status"], "0");
        let body: ModelInferResponse = parse(only_frame(body, 1 << 20).unwrap().message).unwrap();
        assert_eq!((&*body.outputs[0].name, &*body.outputs[0].shape), ("X", &[1, 2][..]));
    }
    let (_, metrics) = gateway.admin("GET", "/metrics", "");
    assert!(metrics.contains("drisse_gateway_requests_total{service=\"s\",status=\"2xx\"} 4"), "{metrics}");
}

#[test]
fn a_replica_whose_certificate_is_not_trusted_gets_no_request_and_the_log_says_why() {
    collect_log();
    let (server, other) = (ScoringServer::start(), ScoringServer::start());
    let gateway = Running::start();
    gateway.put(&document(1, vec![server.route(&other.certificate)]));
    let (answer, body) = gateway.post(SCORE, "", "{\"data\":[[1,2]]}");
    assert!(answer.starts_with("HTTP/1.1 503") && header(&answer, "retry-after").is_some(), "{answer}{body}");
    let (head, _, _) = infer(gateway.address, "");
    assert_eq!(head["grpc-status"], "14", "{head:?}");
    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    let why = format!("cannot connect to https://{}: invalid peer certificate", server.address);
    assert_eq!(log.matches(&why).count(), 2, "{log}");
}
