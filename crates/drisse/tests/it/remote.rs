//! Workspaces of other machines: the control API over TCP, and models that are uploaded.

use crate::support::root;
use crate::workspace::{Ran, Workspace, own_address, ran};
use drisse_testkit::{Connection, wait};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

const DIGITS: &str = "examples/digits/digits.onnx";

/// The control API of a workspace over plain HTTP, with its token.
struct Remote {
    workspace: Workspace,
    address: String,
    token: String,
}

impl Remote {
    fn new() -> Self {
        let (workspace, address) = (Workspace::new(), own_address());
        workspace.ok(&["up", "--control", &address]);
        let token = fs::read_to_string(workspace.root.join("control.token")).unwrap().trim().to_owned();
        Self { workspace, address, token }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.workspace.command(arguments);
        command.env("DRISSE_WORKSPACE", format!("http://{}", self.address)).env("DRISSE_TOKEN", &self.token);
        ran(command)
    }

    fn ok(&self, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    }

    /// Sends a request, of whose body only the given bytes are sent, and returns its connection.
    fn begin(&self, method: &str, path: &str, length: usize, body: &[u8]) -> Connection<TcpStream> {
        let Self { address, token, .. } = self;
        let head = format!(
            "{method} /v1/{path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
        );
        let mut connection = Connection::tcp(address.as_str()).unwrap();
        connection.push([head.as_bytes(), body].concat());
        connection
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let answer = self.begin(method, path, body.len(), body).read().unwrap();
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// Waits until an operation has ended, and returns it.
    fn ended(&self, operation: &Value) -> Value {
        let mut document = Value::Null;
        wait("the end of the operation", || {
            document = self.ask("GET", &format!("operations/{}", operation["id"]), b"").1;
            !document["finished_at"].is_null()
        });
        document
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Returns the names of the files that uploads have left in a workspace.
fn left(workspace: &Workspace) -> Vec<String> {
    let folders = ["uploads/blobs/sha256", "uploads/partial", "ingest"]
        .map(|folder| workspace.root.join("store").join(folder));
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn the_control_api_over_tcp_asks_for_its_token_and_reads_no_files_for_strangers() {
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", DIGITS]);
    let free = own_address();
    workspace.ok(&["up", "--control", &free]);
    let token = fs::read_to_string(workspace.root.join("control.token")).unwrap();
    assert_eq!(
        fs::metadata(workspace.root.join("control.token")).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let url = format!("http://{free}");
    let remote = |token: &str, arguments: &[&str]| {
        let mut command = workspace.command(arguments);
        command.env("DRISSE_WORKSPACE", &url).env("DRISSE_TOKEN", token.trim());
        crate::workspace::ran(command)
    };
    let ran = remote("wrong", &["models"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("error: the token is missing or wrong"), "{ran:?}");
    assert!(remote(&token, &["models"]).stdout.contains("digits:1"));
    assert_eq!(remote(&token, &["deploy", "digits:1"]).code, 0);
    let beyond = workspace.run(&["up", "--control", "0.0.0.0:0"]);
    assert_eq!(beyond.code, 1);
    assert!(beyond.stderr.contains("only over TLS"), "{beyond:?}");
    // The address is stored, so any command that starts the control plane uses it again.
    workspace.ok(&["services"]);
    crate::workspace::kill(u32::try_from(workspace.pid("control").unwrap()).unwrap(), "-9");
    workspace.ok(&["services"]);
    assert_eq!(remote(&token, &["models"]).code, 0);
    workspace.ok(&["up", "--no-control"]);
    assert_eq!(remote(&token, &["models"]).code, 2);
}

#[test]
fn the_control_api_beyond_this_machine_is_https() {
    let workspace = Workspace::new();
    let free = own_address();
    let (certificate, key) = certificate(&workspace, &["localhost", free.split(':').next().unwrap()]);
    workspace.ok(&["up", "--control", &free, "--control-cert", &certificate, "--control-key", &key]);
    let token = fs::read_to_string(workspace.root.join("control.token")).unwrap();
    let remote = |ca: Option<&str>, arguments: &[&str]| {
        let mut command = workspace.command(arguments);
        command.env("DRISSE_WORKSPACE", format!("https://{free}")).env("DRISSE_TOKEN", token.trim());
        command.envs(ca.map(|ca| ("DRISSE_CA", ca)));
        ran(command)
    };
    let unknown = remote(None, &["deploy", "nothing"]);
    assert!(
        unknown.code == 1 && unknown.stderr.contains("set DRISSE_CA to the file of the CA certificate"),
        "{unknown:?}"
    );
    let deployed = remote(Some(&certificate), &["deploy", DIGITS]);
    assert!(deployed.code == 0 && deployed.stderr.contains("uploaded 20."), "{deployed:?}");
    let other = Workspace::new();
    let refused = remote(Some(&self::certificate(&other, &["localhost"]).0), &["services"]);
    assert!(refused.code == 2 && refused.stderr.contains("invalid peer certificate"), "{refused:?}");
}

/// Writes a self-signed certificate and its key, and returns their paths. As those of `openssl req -x509`, it is marked as
/// that of an authority.
pub(crate) fn certificate(workspace: &Workspace, names: &[&str]) -> (String, String) {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    let mut parameters = rcgen::CertificateParams::new(names).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = parameters.self_signed(&key).unwrap();
    let path = |name: &str| workspace.folder.path().join(name);
    fs::write(path("cert.pem"), made.pem()).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    (path("cert.pem").display().to_string(), path("key.pem").display().to_string())
}

#[test]
fn models_and_samples_are_uploaded_to_a_workspace_of_another_machine_once() {
    let remote = Remote::new();
    let own = Workspace::new();
    let there = remote.ok(&["models", "register", "examples/digits", "--tag", "a=b"]);
    assert!(there.stderr.contains("uploaded 20.2 KiB, 0 B already there"), "{there:?}");
    assert_eq!(
        there.stdout,
        own.ok(&["models", "register", "examples/digits"]).stdout,
        "the same name and digest"
    );
    let again = remote.ok(&["deploy", "examples/digits"]);
    assert!(again.stderr.contains("uploaded 0 B, 20.2 KiB already there"), "{again:?}");
    assert!(again.stdout.contains("answer    {\"label\":[0]"), "{again:?}");
    assert!(again.stdout.contains("examples/digits/sample.json"), "the user's own file: {again:?}");
    wait("the end of what was uploaded", || left(&remote.workspace).is_empty());
    let sample = remote.workspace.folder.path().join("mine.json");
    fs::write(&sample, json!({ "data": [[0]] }).to_string()).unwrap();
    let sample = sample.to_str().unwrap();
    let refused = remote.run(&["deploy", DIGITS, "--name", "other", "--sample", sample]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("error: given/mine.json is not a sample for this model"), "{refused:?}");
    // A version of Triton with the options of its configuration.
    let folder = remote.workspace.folder.path().join("densenet_onnx");
    fs::create_dir_all(folder.join("1")).unwrap();
    fs::copy(root().join(DIGITS), folder.join("1/model.onnx")).unwrap();
    fs::write(folder.join("config.pbtxt"), "max_batch_size: 8\ninstance_group [ { count: 2 } ]").unwrap();
    remote.ok(&["deploy", folder.to_str().unwrap()]);
    let shown = remote.workspace.json(&["services", "show", "densenet_onnx"]);
    assert_eq!(shown["revisions"][0]["serving"], json!({ "workers": 2, "max_batch": 8 }));
}

#[test]
fn an_upload_goes_on_where_it_stopped_and_only_the_right_bytes_are_taken() {
    let remote = Remote::new();
    let model = fs::read(root().join(DIGITS)).unwrap();
    let (digest, size) = (digest(&model), model.len());
    let path = format!("uploads/{digest}");
    let part = |offset: usize, bytes: &[u8]| {
        remote.ask("PATCH", &format!("{path}?size={size}&offset={offset}"), bytes)
    };
    assert_eq!(
        remote.ask("GET", &path, b"").1,
        json!({ "digest": digest, "received": 0, "complete": false })
    );
    // The connection breaks after 5000 bytes; meanwhile another client is refused.
    let broken = remote.begin("PATCH", &format!("{path}?size={size}"), size, &model[..5000]);
    let received = || remote.ask("GET", &path, b"").1["received"].clone();
    wait("the first bytes", || received() == 5000);
    let (status, refused) = part(5000, &model[5000..]);
    assert_eq!(status, 409, "{refused}");
    assert!(refused["error"]["message"].as_str().unwrap().starts_with("another client is sending the file"));
    drop(broken);
    wait("the end of the first upload", || part(5001, b"").1["error"]["hint"] == "continue with offset=5000");
    // A control plane that is killed loses nothing.
    crate::workspace::kill(u32::try_from(remote.workspace.pid("control").unwrap()).unwrap(), "-9");
    remote.workspace.ok(&["services"]);
    assert_eq!(received(), 5000);
    let (status, smaller) = remote.ask("PATCH", &format!("{path}?size=4999"), b"");
    assert_eq!((status, received()), (400, json!(5000)), "{smaller}");
    let too_long = [&model[5000..], b"x"].concat();
    assert_eq!(part(5000, &too_long).0, 400);
    let request = json!({ "uploaded": { "model": "digits.onnx", "files": { "digits.onnx": digest } } });
    let register = || remote.ask("POST", "models", request.to_string().as_bytes());
    let failed = remote.ended(&register().1);
    assert_eq!(failed["error"]["message"], format!("the file {digest} has not been uploaded"), "{failed}");
    // Other bytes are removed as soon as they are known to be others.
    let at = received().as_u64().unwrap() as usize;
    let (status, other) = part(at, &vec![0; size - at]);
    assert_eq!((status, received()), (400, json!(0)), "{other}");
    assert!(other["error"]["message"].as_str().unwrap().contains("have the digest sha256:"), "{other}");
    let (status, whole) = part(0, &model);
    assert_eq!((status, &whole["complete"]), (200, &json!(true)), "{whole}");
    let model = remote.ended(&register().1);
    assert_eq!(model["result"]["name"], "digits", "{model}");
    wait("the end of what was uploaded", || left(&remote.workspace).is_empty());
    assert_eq!(remote.ask("GET", &path, b"").1["complete"], true, "the model has it");
}

#[test]
fn what_is_uploaded_leads_to_no_other_file() {
    let remote = Remote::new();
    let file = digest(b"x");
    assert_eq!(remote.ask("PATCH", &format!("uploads/{file}?size=1"), b"x").0, 200);
    let register = |mut files: Value| {
        let model = files.get("m.onnx").cloned().unwrap_or(json!(file));
        files["m.onnx"] = model;
        let request = json!({ "name": "m", "uploaded": { "model": "m.onnx", "files": files } });
        let (status, begun) = remote.ask("POST", "models", request.to_string().as_bytes());
        assert_eq!(status, 202, "{begun}");
        remote.ended(&begun)["error"].clone()
    };
    for name in ["../m.onnx", "/tmp/m.onnx", "a/../../m.onnx", "", "a//../b", "."] {
        let error = register(json!({ name: file }));
        assert!(error["message"].as_str().unwrap().contains("is not the path of a file"), "{name}: {error}");
    }
    let error = register(json!({ "a": file, "a/b": file }));
    assert!(error["message"].as_str().unwrap().contains("is a file and a folder"), "{error}");
    for path in ["/etc/passwd", "../../../control.token", "m2.onnx"] {
        for (model, sample) in [(path, None), ("m.onnx", Some(path))] {
            let uploaded = json!({ "model": model, "files": { "m.onnx": file } });
            let request =
                json!({ "name": "m", "uploaded": uploaded, "sample": sample, "follow_links": true });
            let (_, begun) = remote.ask("POST", "models", request.to_string().as_bytes());
            let message = format!("`{path}` is not one of the uploaded files");
            assert_eq!(remote.ended(&begun)["error"]["message"], message);
            let request = json!({ "name": "s", "model": { "uploaded": uploaded }, "sample": sample });
            let (_, begun) = remote.ask("POST", "services", request.to_string().as_bytes());
            assert_eq!(remote.ended(&begun)["error"]["message"], message);
        }
    }
    let error = register(json!({ "m.onnx": "sha256:../../control.token" }));
    assert!(error["message"].as_str().unwrap().contains("is not a SHA-256 digest"), "{error}");
    assert_eq!(remote.ask("GET", "uploads/control.token", b"").0, 400);
    for (request, why) in [
        (json!({ "path": "/etc/passwd" }), "may name files"),
        (json!({ "name": "m", "package": file, "path": "/tmp" }), "may name files"),
        (json!({ "sample": "/etc/passwd" }), "may name files"),
        (json!({}), "give one of"),
        (json!({ "name": "m", "package": file, "uploaded": { "model": "m", "files": {} } }), "give one of"),
    ] {
        let (_, refused) = remote.ask("POST", "models", request.to_string().as_bytes());
        assert!(refused["error"]["message"].as_str().unwrap().contains(why), "{refused}");
    }
    assert_eq!(
        remote.ask("PATCH", &format!("uploads/{}?size={}", digest(b"y"), u64::MAX >> 1), b"y").0,
        400,
        "no room"
    );
}

#[test]
fn a_signed_package_of_a_registry_goes_to_another_machine_with_its_signatures() {
    let (source, remote) = (Workspace::new(), Remote::new());
    let (key, public) = crate::signing::keys(source.folder.path(), "key");
    source.ok(&["models", "register", "examples/digits"]);
    let registry = own_address();
    source.ok(&["up", "--registry", &registry]);
    remote.ok(&["models", "trust", &public]);
    let deploy = ["deploy", &format!("oci://{registry}/digits:1"), "--plain-http"];
    let unsigned = remote.run(&deploy);
    assert!(unsigned.stderr.contains("the model is not signed"), "{unsigned:?}");
    source.ok(&["models", "sign", "digits", "--key", &key]);
    remote.ok(&deploy);
    let manifest =
        |workspace: &Workspace| workspace.json(&["models", "show", "digits"])["manifest_digest"].clone();
    assert_eq!(manifest(&remote.workspace), manifest(&source), "the package is unchanged");
    wait("the end of what was uploaded", || left(&remote.workspace).is_empty());
    remote.ok(&["models", "verify", "digits"]);
    remote.ok(&deploy);
}
