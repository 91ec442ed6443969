//! Signing keys, signatures, and the models that are refused.

use crate::registry::{Registry, User};
use crate::support::{drisse, root};
use crate::workspace::{Ran, Workspace, ran};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Creates a key pair in a folder, and returns the files of the private and the public key.
pub(crate) fn keys(folder: &Path, name: &str) -> (String, String) {
    let file = folder.join(name).display().to_string();
    let made = ran(drisse(&["models", "keygen", &file]));
    assert_eq!(made.code, 0, "{made:?}");
    (file.clone(), format!("{file}.pub"))
}

/// Deploys the signed model `digits` in a workspace that trusts its key. Returns the public key and the folder with
/// the signed manifest and its signatures.
fn signed(workspace: &Workspace, folder: &Path) -> (String, PathBuf) {
    let (key, public) = keys(folder, "key");
    workspace.ok(&["models", "register", "examples/digits"]);
    workspace.ok(&["models", "sign", "digits", "--key", &key]);
    workspace.ok(&["models", "trust", &public]);
    workspace.ok(&["deploy", "digits"]);
    let service = fs::read_dir(workspace.root.join("services/digits")).unwrap().flatten();
    let mut evidence = service.filter(|entry| entry.file_name().to_string_lossy().starts_with("evidence-"));
    (public, evidence.next().unwrap().path())
}

fn refused(ran: &Ran, why: &str) {
    assert!(ran.code == 1 && ran.stderr.contains(why), "{why}: {ran:?}");
}

#[test]
fn only_models_that_a_key_that_counts_has_signed_run() {
    let (workspace, folder) = (Workspace::new(), tempfile::tempdir().unwrap());
    let (public, _) = signed(&workspace, folder.path());
    let verified = workspace.ok(&["models", "verify", "digits"]);
    assert!(verified.stderr.contains("digits:1 is signed by key "), "{verified:?}");
    refused(&workspace.run(&["deploy", "examples/wine"]), "the model is not signed");
    assert_eq!(workspace.json(&["services"])["items"].as_array().unwrap().len(), 1);
    let (other, other_public) = keys(folder.path(), "other");
    workspace.ok(&["models", "sign", "wine", "--key", &other]);
    refused(&workspace.run(&["deploy", "wine"]), "no trusted key has signed the model");
    refused(&workspace.run(&["models", "verify", "wine"]), "no trusted key has signed the model");
    workspace.ok(&["models", "verify", "wine", "--key", &other_public]);
    let trusted = workspace.json(&["models", "trust", &other_public]);
    assert_eq!(trusted["keys"].as_array().unwrap().len(), 2);
    workspace.ok(&["deploy", "wine"]);
    let first = trusted["keys"][0].as_str().unwrap();
    assert_eq!(
        workspace.json(&["models", "trust", "--remove", &first[..12]])["keys"],
        json!([trusted["keys"][1]])
    );
    refused(&workspace.run(&["update", "digits", "--max-wait", "1s"]), "no trusted key has signed the model");
    assert_eq!(workspace.json(&["services", "show", "digits"])["state"], "Ready", "what runs goes on");
    assert_eq!(workspace.json(&["models", "trust", "--none"])["keys"], json!([]));
    workspace.ok(&["update", "digits", "--max-wait", "1s"]);
    refused(&workspace.run(&["models", "trust", "README.md"]), "README.md is not a valid key");
    let again = ran(drisse(&["models", "keygen", public.trim_end_matches(".pub")]));
    refused(&again, "File exists");
    let mode = fs::metadata(public.trim_end_matches(".pub")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
}

#[test]
fn a_server_looks_itself_before_it_reads_a_model() {
    let (workspace, folder) = (Workspace::new(), tempfile::tempdir().unwrap());
    let (public, evidence) = signed(&workspace, folder.path());
    let model = folder.path().join("model");
    let beside = model.join(".drisse");
    let fresh = || {
        let _ = fs::remove_dir_all(&model);
        fs::create_dir_all(&beside).unwrap();
        for name in ["digits.onnx", "sample.json"] {
            fs::copy(root().join("examples/digits").join(name), model.join(name)).unwrap();
        }
        // The signed manifest and its signatures.
        for entry in fs::read_dir(&evidence).unwrap().flatten() {
            fs::copy(entry.path(), beside.join(entry.file_name())).unwrap();
        }
    };
    let serve = |trusted: &str| {
        let model = model.display().to_string();
        // A server that accepts the signature fails later, at the address.
        ran(drisse(&["serve", &model, "--trusted-keys", trusted, "--listen", "192.0.2.1:1", "--no-auth"]))
    };
    let alter = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        bytes[20] ^= 1;
        fs::write(file, bytes).unwrap();
    };
    fresh();
    refused(&serve(&public), "192.0.2.1");
    alter(&model.join("digits.onnx"));
    refused(&serve(&public), "digits.onnx is not the file that was signed");
    fresh();
    fs::rename(model.join("digits.onnx"), model.join("other.onnx")).unwrap();
    refused(&serve(&public), "digits.onnx is not the file that was signed");
    fresh();
    fs::copy(model.join("digits.onnx"), model.join("model.onnx")).unwrap();
    refused(&serve(&public), "model.onnx is not part of what was signed");
    fresh();
    alter(&beside.join("manifest.json"));
    refused(&serve(&public), "the signature is of another model");
    fresh();
    let bundle = beside.join("0.sigstore.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&bundle).unwrap()).unwrap();
    let other = json!({ "subject": [] }).to_string();
    document["dsseEnvelope"]["payload"] = STANDARD.encode(other).into();
    fs::write(&bundle, document.to_string()).unwrap();
    refused(&serve(&public), "the signature was forged or altered");
    fs::remove_file(&bundle).unwrap();
    refused(&serve(&public), "the model is not signed");
    fresh();
    refused(&serve(&keys(folder.path(), "another").1), "no trusted key has signed the model");
    fs::remove_dir_all(&beside).unwrap();
    refused(&serve(&public), "the model is not signed");
}

#[test]
fn openssl_agrees_with_what_is_signed_and_signs_what_we_believe() {
    let (workspace, folder) = (Workspace::new(), tempfile::tempdir().unwrap());
    let (public, evidence) = signed(&workspace, folder.path());
    let document: Value =
        serde_json::from_slice(&fs::read(evidence.join("0.sigstore.json")).unwrap()).unwrap();
    let envelope = &document["dsseEnvelope"];
    let bytes = |text: &Value| STANDARD.decode(text.as_str().unwrap()).unwrap();
    let (payload, kind) = (bytes(&envelope["payload"]), envelope["payloadType"].as_str().unwrap());
    let statement: Value = serde_json::from_slice(&payload).unwrap();
    let manifest = workspace.json(&["models", "show", "digits"])["manifest_digest"].clone();
    assert_eq!(format!("sha256:{}", statement["subject"][0]["digest"]["sha256"].as_str().unwrap()), manifest);
    assert_eq!(statement["subject"].as_array().unwrap().len(), 2, "the image without a runtime too");
    let encoded = [format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).as_bytes(), &payload].concat();
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(file("signed"), encoded).unwrap();
    fs::write(file("signature"), bytes(&envelope["signatures"][0]["sig"])).unwrap();
    let openssl = |arguments: &[&str]| {
        ran({
            let mut command = Command::new("openssl");
            command.args(arguments);
            command
        })
    };
    let verify = ["dgst", "-sha256", "-verify", &public, "-signature", &file("signature"), &file("signed")];
    assert!(openssl(&verify).stdout.contains("Verified OK"), "{:?}", openssl(&verify));
    let make =
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &file("theirs")];
    assert_eq!(openssl(&make).code, 0);
    assert_eq!(openssl(&["pkey", "-in", &file("theirs"), "-pubout", "-out", &file("theirs.pub")]).code, 0);
    workspace.ok(&["models", "sign", "digits", "--key", &file("theirs")]);
    workspace.ok(&["models", "verify", "digits", "--key", &file("theirs.pub")]);
}

#[test]
fn signatures_go_with_models_through_registries_that_know_nothing_of_them() {
    let Some(registry) = Registry::start() else { return };
    let (one, other) = (User::new(), User::new());
    let (key, public) = keys(one.cache.path(), "key");
    one.json(&["models", "register", "examples/digits"]);
    one.json(&["models", "push", "digits", &registry.reference("unsigned")]);
    one.json(&["models", "sign", "digits", "--key", &key]);
    one.json(&["models", "sign", "digits", "--key", &keys(one.cache.path(), "second").0]);
    one.json(&["models", "push", "digits", &registry.reference("signed")]);
    other.json(&["models", "trust", &public]);
    other.refused(&["models", "pull", &registry.reference("unsigned:1")], "the model is not signed");
    assert_eq!(other.json(&["models"])["items"], json!([]));
    other.json(&["deploy", &registry.reference("signed:1")]);
    let verified = other.run(&["models", "verify"]);
    assert!(verified.code == 0 && verified.stderr.contains("signed:1 is signed by key "), "{verified:?}");
    other.json(&["models", "prune"]);
    other.json(&["models", "verify"]);
}
