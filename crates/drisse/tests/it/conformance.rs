//! `drisse conformance`: Drisse passes every case, and violations of another server are reported.

use crate::support::{Serving, drisse, output};
use crate::workspace::Workspace;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Writes the models that the cases need into a temporary folder, and returns their paths.
fn models() -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut write = drisse(&["conformance", "--models", folder.path().to_str().unwrap()]);
    // Options set by environment variables must not conflict with --models.
    let written = write.env("DRISSE_WORKSPACE", folder.path()).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let files = std::fs::read_dir(folder.path()).unwrap();
    let files = files.map(|file| file.unwrap().path().to_str().unwrap().to_owned()).collect();
    (folder, files)
}

/// Runs the cases, checks that none failed or warned, and returns the report.
fn check(arguments: &[&str]) -> serde_json::Value {
    let (code, stdout, stderr) = output(&[&["conformance", "--output", "json"], arguments].concat());
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}"));
    let cases = document["cases"].as_array().unwrap();
    let wrong: Vec<_> =
        cases.iter().filter(|case| case["outcome"] == "failed" || case["outcome"] == "warned").collect();
    assert!(code == 0 && wrong.is_empty(), "{wrong:#?}");
    document
}

#[test]
fn the_scoring_server_is_as_every_case_says() {
    let (folder, files) = models();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "a-key-of-32-letters-for-the-tests\n").unwrap();
    let (keys, junit) = (keys.to_str().unwrap(), folder.path().join("junit.xml"));
    let mut arguments =
        vec!["--listen", "127.0.0.1:0", "--model-control", "--shared-memory", "drisse-*", "--keys", keys];
    arguments.extend(files.iter().map(String::as_str));
    let serving = Serving::start(&arguments);
    let document =
        check(&[serving.url(), "--key-file", keys, "--strict", "--junit", junit.to_str().unwrap()]);
    for (protocol, least) in
        [("v2", 300), ("v2-binary", 130), ("v2-extensions", 30), ("grpc", 170), ("v1", 50)]
    {
        let counts = &document["protocols"][protocol];
        assert!(
            counts["skipped"].is_null() && counts["passed"].as_u64() >= Some(least),
            "{protocol}: {counts}"
        );
    }
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("<testsuite name=\"grpc\"") && junit.contains("failures=\"0\""), "{junit}");
}

#[test]
fn the_gateway_is_as_every_case_says() {
    let (_folder, files) = models();
    let workspace = Workspace::new();
    let mut address = String::new();
    for name in ["identity-fp32", "identity-bytes", "add-sub"] {
        let file = files.iter().find(|file| file.ends_with(&format!("{name}.onnx"))).unwrap();
        let deployed = workspace.json(&["deploy", file, "--no-auth"]);
        let uri = deployed["scoring_uri"].as_str().unwrap();
        address = uri.split("/api/").next().unwrap().to_owned();
    }
    let document = check(&[&address, "--protocol", "v2", "--protocol", "v2-binary", "--protocol", "grpc"]);
    for (protocol, least) in [("v2", 100), ("v2-binary", 50), ("grpc", 50)] {
        let passed = document["protocols"][protocol]["passed"].as_u64();
        assert!(passed >= Some(least), "{protocol}: {passed:?}");
    }
}

#[test]
fn a_violation_is_reported_with_the_place_in_the_specification() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Answers 200 to every request, with a body that fits none.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 8192]);
            let body = r#"{"name": "a", "version": "1", "extensions": []}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}",
                body.len()
            );
            let _ = stream.write_all(format!("{head}\r\nconnection: close\r\n\r\n{body}").as_bytes());
        }
    });
    let (code, stdout, _) =
        output(&["conformance", &url, "--protocol", "v2", "--case", "the answer has the id"]);
    assert_eq!(code, 1);
    assert!(stdout.contains("failed  v2: the answer has the id of its request (42)"), "{stdout}");
    assert!(stdout.contains("id is missing (answered 200: {\"name\""), "{stdout}");
    assert!(stdout.contains("inference_rest.md#L244"), "{stdout}");
    let (code, stdout, _) = output(&["conformance", &url, "--protocol", "v2-binary"]);
    assert!(code == 1 && stdout.contains("the server does not announce `binary_tensor_data`"), "{stdout}");
}

#[test]
fn a_server_that_cannot_be_checked_is_an_error_with_a_hint() {
    let serving = Serving::start(&["--listen", "127.0.0.1:0", "examples/digits/digits.onnx"]);
    let free = crate::workspace::own_address();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "a-key-of-32-letters-for-the-tests\n").unwrap();
    let keys = keys.to_str().unwrap();
    let locked = Serving::start(&["--listen", "127.0.0.1:0", "--keys", keys, "examples/digits/digits.onnx"]);
    for (arguments, code, why) in [
        (&[serving.url()][..], 1, "has none of the models that the cases ask for"),
        (&[&*format!("http://{free}")], 2, "no server answers at"),
        (&[locked.url()], 1, "name a file with the server's key: --key-file FILE"),
        (&[locked.url(), "--key-file", keys], 1, "has none of the models"),
        (&["localhost:8000"], 1, "`localhost:8000` is not a server URL"),
        (
            &["https://localhost"],
            1,
            "name the CA certificate that signed the server's certificate: --ca FILE",
        ),
        (&[serving.url(), "--protocol", "v3"], 1, "the protocols are v2, v2-binary, v2-extensions, grpc, v1"),
        (&[serving.url(), "--junit", "/nowhere/report"], 1, "cannot write /nowhere/report"),
        (&[serving.url(), "--key-file", "/nowhere"], 1, "cannot read the key in /nowhere"),
        (&[], 1, "<URL>"),
    ] {
        let (found, _, stderr) = output(&[&["conformance"], arguments].concat());
        assert!(found == code && stderr.contains(why), "{arguments:?}: {found} {stderr}");
    }
    let (code, stdout, _) = output(&["conformance", "--list", "--protocol", "v1"]);
    assert!(code == 0 && stdout.contains("v1             the models are listed"), "{stdout}");
}
