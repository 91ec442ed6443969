//! A faulty or hostile registry: every wrong answer is detected.

use crate::faulty_registry::{FaultyRegistry, digest, faulty, package, plain, sent_to};
use crate::registry::User;
use crate::support::root;
use serde_json::json;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const DIGITS: &str = "examples/digits/digits.onnx";

#[test]
fn wrong_answers_of_a_registry_are_detected_and_leave_nothing_registered() {
    let user = User::new();
    let honest = faulty(|_, _| None);
    assert_eq!(user.json(&["models", "pull", &honest.reference("honest:1")])["name"], "honest");
    let is_model = |path: &str| {
        path.contains("/blobs/") && path.contains(&digest(&fs::read(root().join(DIGITS)).unwrap())[7..])
    };
    let refused = |what: &str, start: &dyn Fn() -> FaultyRegistry, why: &str| {
        // A new workspace, which has none of the blobs.
        let user = User::new();
        let registry = start();
        user.refused(&["models", "pull", &registry.reference("x:1")], why);
        assert_eq!(user.json(&["models"])["items"], json!([]), "{what}");
    };
    let changed = move |change: fn(Vec<u8>) -> Vec<u8>| {
        faulty(move |_, path| {
            let model = fs::read(root().join(DIGITS)).unwrap();
            is_model(path).then(|| plain(change(model)))
        })
    };
    let flipped = |mut model: Vec<u8>| {
        model[1000] ^= 1;
        model
    };
    refused("other bytes", &|| changed(flipped), "the bytes it sent for blob sha256:");
    refused(
        "fewer bytes",
        &|| changed(|model| model[..100].to_vec()),
        "the connection ended before the blob was complete",
    );
    refused("more bytes", &|| changed(|model| [model, vec![0; 10]].concat()), "bytes in the manifest");
    let with = |path: &'static str, twice: bool| {
        let (manifest, _) = package(path, twice);
        move || {
            let manifest = manifest.clone();
            faulty(move |_, path| path.contains("/manifests/").then(|| plain(manifest.clone())))
        }
    };
    refused("a path that leads out", &with("../digits.onnx", false), "not a plain path");
    refused("a path twice", &with("digits.onnx", true), "two layers are both");
    let endless = || faulty(|_, path| path.contains("/manifests/").then(|| plain(vec![b' '; 5 << 20])));
    refused("an endless manifest", &endless, "is longer than 4194304 bytes");
    let elsewhere = || faulty(move |_, path| is_model(path).then(|| sent_to("http://blobs.example/x")));
    refused("blobs elsewhere without TLS", &elsewhere, "it redirects to blobs.example without TLS");
    let moved = || faulty(|_, path| path.contains("/manifests/").then(|| sent_to("/v2/y/manifests/1")));
    refused("a manifest elsewhere", &moved, "it sent a redirect");
    let no_registry = || FaultyRegistry::start(|_, _| (404, vec![], vec![]));
    refused("no registry", &no_registry, "the server is not a registry (status 404");
    let token = || {
        FaultyRegistry::start(|_, _| {
            let challenge = "Bearer realm=\"http://tokens.example/t\"".to_owned();
            (401, vec![("www-authenticate", challenge)], vec![])
        })
    };
    refused("a token server without TLS", &token, "http://tokens.example/t does not use TLS");

    // A wrong size for a blob that the store already has.
    let vast = |manifest: Vec<u8>| {
        let text = String::from_utf8(manifest).unwrap();
        let size = fs::metadata(root().join(DIGITS)).unwrap().len();
        text.replace(&format!("\"size\":{size}"), "\"size\":4611686018427387904").into_bytes()
    };
    let (manifest, _) = package("digits.onnx", false);
    let manifest = vast(manifest);
    let misstated = faulty(move |_, path| path.contains("/manifests/").then(|| plain(manifest.clone())));
    user.refused(
        &["models", "pull", &misstated.reference("x:1")],
        "4611686018427387904 as the manifest says",
    );

    // A manifest requested by digest must have this digest.
    let (manifest, _) = package("digits.onnx", false);
    let wrong = digest(b"something else");
    user.refused(&["models", "pull", &honest.reference(&format!("x@{wrong}"))], "the manifest it sent for");
    assert_ne!(digest(&manifest), wrong);

    // A tag that names other bytes at each request is requested only once.
    let count = AtomicUsize::new(0);
    let fickle = faulty(move |_, path| {
        let asked = path.contains("/manifests/") && count.fetch_add(1, SeqCst) > 0;
        asked.then(|| plain(b"{}".to_vec()))
    });
    assert_eq!(user.json(&["models", "pull", &fickle.reference("fickle:1")])["name"], "fickle");
    assert_eq!(fickle.asked("/manifests/1"), 1);

    // An upload that is redirected to another host.
    let greedy = faulty(|method, path| match method {
        "POST" => Some((202, vec![("location", "http://else.example/u".to_owned())], vec![])),
        "HEAD" => Some((404, vec![], vec![])),
        _ => (!path.contains("/v2/")).then(|| plain(vec![])),
    });
    user.refused(
        &["models", "push", "honest", &greedy.reference("x")],
        "it redirects an upload to another host",
    );
    assert_eq!(greedy.asked("authorization"), 0);
    user.refused(&["models", "pull", "oci://127.0.0.1:1/x"], "Connection refused");
    user.refused(&["models", "pull", "oci://127.0.0.1:1/../x"], "is not a reference to a registry");
}
