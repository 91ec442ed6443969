//! Route documents through the admin socket.

use crate::support::{Running, document};
use serde_json::{Value, json};

/// A document as the control plane of another version may write it.
fn other(generation: u64, more: Value) -> Value {
    let mut written = json!(document(generation, vec![]));
    written.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    written
}

#[test]
fn what_was_put_is_what_is_returned_and_a_field_that_is_required_must_be_known() {
    let gateway = Running::start();
    let put = |document: &Value| gateway.admin("PUT", "/routes/s", &document.to_string());
    let get = || serde_json::from_str::<Value>(&gateway.admin("GET", "/routes/s", "").1).unwrap();
    let revision = json!({ "revision": 1, "weight": 1, "region": "west", "replicas": [
        { "id": "r", "address": "unix:/r", "concurrency": 1, "zone": ["a"] }] });
    let kept = other(1, json!({ "shadow": { "share": 0.5 }, "requires": ["keys"], "revisions": [revision] }));
    assert_eq!(put(&kept).0, 200);
    assert_eq!(get(), kept);
    let (status, answer) = put(&other(2, json!({ "shadow": {}, "requires": ["keys", "shadow"] })));
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("`shadow`") && answer.contains("upgrade the gateway (`drisse up`)"), "{answer}");
    assert_eq!(get(), kept);
    assert_eq!(put(&other(2, json!({}))).0, 200, "its generation is free");
}

#[test]
fn a_certificate_that_is_not_pem_is_refused_with_the_name_of_its_replica() {
    let gateway = Running::start();
    for pem in ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let replica =
            json!({ "id": "west-1", "address": "https://127.0.0.1:1", "concurrency": 1, "certificate": pem });
        let revisions = json!([{ "revision": 1, "weight": 1, "replicas": [replica] }]);
        let (status, answer) =
            gateway.admin("PUT", "/routes/s", &other(1, json!({ "revisions": revisions })).to_string());
        assert!(status == 400 && answer.contains("replica `west-1`: its certificate"), "{status} {answer}");
    }
    assert_eq!(gateway.admin("GET", "/routes", ""), (200, "{}".to_owned()));
}
