//! Access logs of a standalone server, and of a service at the gateway.

use crate::support::{Serving, root};
use crate::workspace::Workspace;
use drisse_testkit::{Request, found};
use serde_json::Value;
use std::path::Path;

const DIGITS: &str = "examples/digits/digits.onnx";

fn sample() -> String {
    std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap()
}

/// Waits until the log has `count` lines, and returns them.
fn lines(path: &Path, count: usize) -> Vec<Value> {
    let text = || std::fs::read_to_string(path).unwrap_or_default();
    found(
        || format!("{count} lines in {}:\n{}", path.display(), text()),
        || {
            let text = text();
            let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            (lines.len() >= count).then_some(lines)
        },
    )
}

#[test]
fn a_server_writes_down_who_asked_what_and_how_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let server = Serving::start(&["--listen", "127.0.0.1:0", "--access-log", log.to_str().unwrap(), DIGITS]);
    server.post("/score?x=secret", "x-request-id: mine\r\n", &sample());
    server.post("/score", "", "{\"data\": 1}");
    let lines = lines(&log, 2);
    let said = |line: &Value| (line["status"].clone(), line["path"].clone(), line["name"].clone());
    assert_eq!(said(&lines[0]), (200.into(), "/score".into(), "digits".into()));
    assert_eq!((&lines[0]["request_id"], &lines[0]["method"]), (&"mine".into(), &"POST".into()));
    assert!(lines[0]["ms"].as_f64() > Some(0.0) && lines[0]["time"].as_str().is_some(), "{lines:?}");
    assert_eq!(said(&lines[1]), (400.into(), "/score".into(), "digits".into()));
}

#[test]
fn a_service_has_a_log_of_its_own_across_updates_until_it_wants_none() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS, "--access-log"]);
    assert_eq!(deployed["access_log"], true);
    let uri = deployed["scoring_uri"].as_str().unwrap();
    let key = deployed["primary_key"].as_str();
    let log = workspace.root.join("services/digits/access.log");
    let score = |key| Request::new(uri, key, &sample()).send().unwrap().0;
    // `deploy` itself also scores the sample, so its request is in the log too.
    let own =
        |lines: &[Value]| lines.iter().filter(|line| line["path"] == "/api/v1/service/digits/score").count();
    assert_eq!((score(key), score(None)), (200, 401));
    let refused =
        |lines: &[Value]| lines.iter().any(|line| line["status"] == 401 && line["name"] == "digits");
    let first = lines(&log, 3);
    assert!(own(&first) == 3 && refused(&first), "{first:?}");
    let updated = workspace.json(&["update", "digits", "--max-wait", "1s"]);
    assert_ne!(updated["revision"], deployed["revision"]);
    assert_eq!(score(key), 200);
    // `update` also scores the sample.
    let after = lines(&log, first.len() + 2).len();
    assert_eq!(workspace.json(&["update", "digits", "--no-access-log"])["access_log"], false);
    assert_eq!(score(key), 200);
    assert_eq!(lines(&log, 0).len(), after);
    workspace.json(&["delete", "digits"]);
    assert!(!log.exists(), "a service that is deleted leaves nothing");
}
