//! Further names of services and models.

use crate::support::{Serving, output, root};
use crate::workspace::{Workspace, own_address};
use drisse_testkit::Connection;
use serde_json::{Value, json};

const DIGITS: &str = "examples/digits";

/// Sends a V2 request to a model of this name, and returns the status and the body.
fn infer(address: &str, name: &str) -> (u16, Value) {
    let data = vec![0.0; 64];
    let input = json!({ "name": "X", "shape": [1, 64], "datatype": "FP32", "data": data });
    let path = format!("/v2/models/{name}/infer");
    let answer = Connection::tcp(address).unwrap().post(&path, &json!({ "inputs": [input] }).to_string());
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

#[test]
fn a_service_has_aliases_on_every_path_and_no_other_service_has_them() {
    let workspace = Workspace::new();
    let address = own_address();
    workspace.ok(&["up", "--gateway", &address]);
    let options = ["--no-auth", "--alias", "MuC_EN", "--alias", "digits.old"];
    let deployed = workspace.json(&[&["deploy", DIGITS], &options[..]].concat());
    assert_eq!(deployed["aliases"], json!(["MuC_EN", "digits.old"]));
    for name in ["digits", "MuC_EN", "digits.old"] {
        let (status, answer) = infer(&address, name);
        assert_eq!((status, &answer["model_name"]), (200, &json!(name)), "{answer}");
    }
    let sample = std::fs::read_to_string(root().join(DIGITS).join("sample.json")).unwrap();
    let post = |path: &str| Connection::tcp(&*address).unwrap().post(path, &sample).status;
    assert_eq!(post("/api/v1/service/MuC_EN/score"), 200);
    assert_eq!(post("/api/v1/service/MuC_EN/score/MuC_EN"), 200);
    assert_eq!(post("/api/v1/service/other/score"), 404);
    let mut gateway = Connection::tcp(&*address).unwrap();
    let metadata = gateway.send("GET /v2/models/MuC_EN HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(metadata.body.starts_with("{\"name\":\"MuC_EN\""), "{}", metadata.body);
    let taken = |arguments: &[&str], why: &str| {
        let ran = workspace.run(arguments);
        assert!(ran.code == 1 && ran.stderr.contains(why), "{arguments:?}: {ran:?}");
    };
    let wine = ["deploy", "examples/wine"];
    taken(&[&wine[..], &["--alias", "digits"]].concat(), "`digits` is already a name of service `digits`");
    taken(&[&wine[..], &["--alias", "MuC_EN"]].concat(), "`MuC_EN` is already a name of service `digits`");
    taken(&[&wine[..], &["--name", "MuC_EN"]].concat(), "`MuC_EN` is already a name of service `digits`");
    taken(&[&wine[..], &["--alias", "wine"]].concat(), "`wine` cannot be an alias");
    taken(&[&wine[..], &["--alias", "a/b"]].concat(), "`a/b` cannot be an alias");
    assert_eq!(workspace.json(&["services"])["items"].as_array().unwrap().len(), 1);
    // An alias that is free again can be that of another service, and cannot come back.
    workspace.ok(&["update", "digits", "--alias", "digits.old"]);
    assert_eq!((infer(&address, "MuC_EN").0, infer(&address, "digits.old").0), (404, 200));
    workspace.ok(&[&wine[..], &["--no-auth", "--alias", "MuC_EN"]].concat());
    assert_eq!(infer(&address, "MuC_EN").0, 400, "it is another model");
    taken(&["rollback", "digits"], "`MuC_EN` is already a name of service `wine`");
    workspace.ok(&["delete", "wine"]);
    workspace.ok(&["rollback", "digits"]);
    assert_eq!(infer(&address, "MuC_EN").0, 200);
    assert_eq!(workspace.json(&["services", "show", "digits"])["aliases"], json!(["MuC_EN", "digits.old"]));
    // The next gateway reads them from its routes.
    crate::workspace::kill(u32::try_from(workspace.pid("gateway").unwrap()).unwrap(), "-9");
    drisse_testkit::wait("the next gateway", || {
        Connection::tcp(&*address).is_ok_and(|_| infer(&address, "MuC_EN").0 == 200)
    });
}

#[test]
fn a_server_serves_its_model_under_aliases() {
    let server =
        Serving::start(&[DIGITS, "--listen", "127.0.0.1:0", "--no-auth", "--alias", "MuC_EN,digits.old"]);
    let address = server.url().trim_start_matches("http://");
    for name in ["digits", "MuC_EN", "digits.old"] {
        assert_eq!(infer(address, name).1["model_name"], name);
    }
    let (code, _, error) = output(&["serve", DIGITS, "examples/wine", "--alias", "x", "--no-auth"]);
    assert!(code == 1 && error.contains("an alias is given for one model, but there are several"), "{error}");
}
