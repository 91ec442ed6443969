//! From a model file to a stable endpoint, which updates without a failed request.

use crate::support::root;
use crate::workspace::{Workspace, exists};
use drisse_testkit::{Connection, Load, Request, wait};
use serde_json::{Value, json};

const DIGITS: &str = "examples/digits/digits.onnx";

fn sample() -> String {
    std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap()
}

/// Returns a request to the service that `deploy --output json` describes.
pub(crate) fn request(deployed: &Value) -> Request {
    let uri = deployed["scoring_uri"].as_str().unwrap();
    Request::new(uri, deployed["primary_key"].as_str(), &sample())
}

#[test]
fn one_command_makes_an_endpoint_and_the_line_it_prints_works_when_pasted() {
    let workspace = Workspace::new();
    let mut deploy = workspace.command(&["deploy", DIGITS]);
    deploy.env("http_proxy", "h:1");
    let ran = crate::workspace::ran(deploy);
    assert!(
        ran.stdout.contains("service   digits, revision 1, Ready\nmodel     digits:1 (sha256:"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("answer    {\"label\":[0],"), "{ran:?}");
    let line = ran.stdout.lines().find(|line| line.contains("curl")).unwrap();
    for shell in ["sh", "bash", "zsh", "fish"] {
        let mut pasted = std::process::Command::new(shell);
        pasted
            .args(["-c", line])
            .current_dir("/")
            .env("DRISSE_WORKSPACE", "/nowhere")
            .env("http_proxy", "h:1");
        match pasted.output() {
            // CI installs all four.
            Err(_) if std::env::var_os("CI").is_none() => {}
            pasted => {
                let pasted = pasted.unwrap();
                assert!(pasted.stdout.starts_with(b"{\"label\":[0],"), "{shell}, {line}: {pasted:?}");
            }
        }
    }
    let key = workspace.json(&["keys", "digits"])["primary_key"].as_str().unwrap().to_owned();
    assert!(!ran.stdout.contains(&key) && !ran.stderr.contains(&key), "no key in what is printed");
    for (_, command_line) in workspace.processes() {
        assert!(!command_line.contains(&key), "no key in a command line");
    }
    let file = std::fs::read_to_string(workspace.root.join("services/digits/keys")).unwrap();
    assert!(!file.contains(&key), "servers hold only digests");
}

#[test]
fn the_document_of_a_deployment_has_what_scripts_rely_on() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS, "--tag", "team=vision"]);
    assert_eq!(deployed["name"], "digits");
    assert_eq!(deployed["model"], "digits:1");
    assert_eq!(deployed["digest"], workspace.json(&["inspect", DIGITS])["digest"]);
    assert_eq!((&deployed["revision"], &deployed["target"]), (&1.into(), &"local".into()));
    assert_eq!(deployed["state"], "Ready");
    let status = workspace.status();
    let address = status["gateway"]["address"].as_str().unwrap();
    assert_eq!(deployed["scoring_uri"], format!("http://{address}/api/v1/service/digits/score"));
    assert_eq!(deployed["swagger_uri"], format!("http://{address}/api/v1/service/digits/swagger.json"));
    let (primary, secondary) = (&deployed["primary_key"], &deployed["secondary_key"]);
    assert!(primary.is_string() && secondary.is_string() && primary != secondary);
    assert_eq!(request(&deployed).send().unwrap().0, 200);
    let open = Request::new(deployed["scoring_uri"].as_str().unwrap(), None, &sample());
    assert_eq!(open.send().unwrap().0, 401);
    let v2 = format!("http://{address}/v2/models/digits/infer");
    let body = r#"{"inputs":[{"name":"X","shape":[1,64],"datatype":"FP32","data":[DATA]}]}"#;
    let body = body.replace("DATA", &vec!["0"; 64].join(","));
    let (status, answer) = Request::new(&v2, primary.as_str(), &body).send().unwrap();
    assert!(status == 200 && answer.contains("\"model_name\":\"digits\""), "{answer}");
    let services = workspace.json(&["services", "--tag", "team=vision"]);
    assert_eq!(services["items"][0]["name"], "digits");
    assert_eq!(workspace.json(&["services", "--tag", "team=sound"])["items"], serde_json::json!([]));
}

#[test]
fn the_same_again_changes_nothing_and_other_files_make_the_next_version() {
    let workspace = Workspace::new();
    let first = workspace.json(&["deploy", DIGITS]);
    let pids = workspace.replicas("digits");
    let again = workspace.json(&["deploy", DIGITS]);
    assert_eq!((&again["revision"], &again["changed"]), (&1.into(), &false.into()));
    assert_eq!(again["primary_key"], first["primary_key"], "keys stay");
    assert_eq!(workspace.replicas("digits"), pids);

    let load = Load::start(4, &request(&first));
    load.more(200);
    let second = workspace.variant("second");
    let second = workspace.json(&["deploy", second.to_str().unwrap()]);
    assert_eq!((&second["model"], &second["revision"]), (&"digits:2".into(), &2.into()));
    load.more(200);
    let seen = load.end();
    assert!(seen.failures.is_empty(), "{:?}", &seen.failures[..seen.failures.len().min(3)]);
    wait("the old replica ends", || workspace.replicas("digits").len() == 1);
    assert_ne!(workspace.replicas("digits"), pids);
}

#[test]
fn updates_rollbacks_and_new_keys_fail_no_request_of_sixteen_connections() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let (uri, secondary) = (deployed["scoring_uri"].as_str().unwrap(), deployed["secondary_key"].as_str());
    let load = Load::start(16, &Request::new(uri, secondary, &sample()));
    load.more(1000);
    for what in ["one", "two", "three"] {
        let file = workspace.variant(what);
        workspace.ok(&["update", "digits", file.to_str().unwrap()]);
        load.more(1000);
    }
    workspace.ok(&["rollback", "digits"]);
    workspace.ok(&["rollback", "digits", "--revision", "1"]);
    load.more(1000);
    workspace.ok(&["update", "digits", "--replicas", "3"]);
    workspace.ok(&["update", "digits", "--replicas", "1"]);
    let old = deployed["primary_key"].as_str();
    let new = workspace.json(&["keys", "digits", "--regenerate", "primary"])["primary_key"].clone();
    assert_eq!(Request::new(uri, old, &sample()).send().unwrap().0, 401, "the old key is refused at once");
    assert_eq!(Request::new(uri, new.as_str(), &sample()).send().unwrap().0, 200);
    while load.answered() < 20_000 {
        load.more(500);
    }
    let seen = load.end();
    assert!(seen.failures.is_empty(), "{} of {}: {:?}", seen.failures.len(), seen.answered, seen.failures[0]);
    assert_eq!(workspace.json(&["services", "show", "digits"])["revision"], 1);
}

#[test]
fn after_a_regenerate_the_old_key_is_refused_by_the_replica_too() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let show = workspace.json(&["services", "show", "digits"]);
    let socket = show["instances"][0]["detail"].as_str().unwrap().strip_prefix("unix:").unwrap().to_owned();
    let ask = |key: &Value| {
        let mut curl = std::process::Command::new("curl");
        let header = format!("authorization: Bearer {}", key.as_str().unwrap());
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", &socket, "-H", &header]);
        let answer = curl.args(["http://h/v2/models/digits"]).output().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    };
    assert_eq!(ask(&deployed["secondary_key"]), "200");
    let keys = workspace.json(&["keys", "digits", "--regenerate", "secondary"]);
    assert_eq!(ask(&deployed["secondary_key"]), "401");
    assert_eq!(ask(&keys["secondary_key"]), "200");
    assert_eq!(ask(&keys["primary_key"]), "200");
}

#[test]
fn a_broken_model_leaves_the_old_version_serving_and_the_error_says_why() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let broken = "crates/drisse-engines/tests/models/unknown_operator.onnx";
    let ran = workspace.run(&["update", "digits", broken, "--replace"]);
    assert_eq!(ran.code, 1);
    let error = ran.stderr.split("error: ").nth(1).unwrap();
    insta::assert_snapshot!(workspace.neutral(error));
    assert_eq!(request(&deployed).send().unwrap().0, 200);
    let service = workspace.json(&["services", "show", "digits"]);
    assert_eq!((&service["revision"], &service["model"]), (&1.into(), &"digits:1".into()));
    wait("it is ready again", || workspace.json(&["services", "show", "digits"])["state"] == "Ready");
}

#[test]
fn a_changed_signature_asks_for_replace() {
    let workspace = Workspace::new();
    workspace.ok(&["deploy", DIGITS]);
    let iris = ["deploy", "examples/iris/iris.onnx", "--name", "digits"];
    let ran = workspace.run(&iris);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot update service `digits` to model `digits:2`: input `X`"), "{ran:?}");
    assert!(ran.stderr.contains("hint: the change can break clients"), "{ran:?}");
    assert_eq!(workspace.json(&["services", "show", "digits"])["model"], "digits:1");
    workspace.ok(&[&iris[..], &["--replace"]].concat());
    assert_eq!(workspace.json(&["services", "show", "digits"])["model"], "digits:2");
}

#[test]
fn a_failed_first_deployment_stays_failed_with_its_logs_until_it_is_deployed_again_or_deleted() {
    let workspace = Workspace::new();
    let broken = "crates/drisse-engines/tests/models/unknown_operator.onnx";
    let ran = workspace.run(&["--output", "json", "deploy", broken, "--name", "x"]);
    assert_eq!(ran.code, 1);
    let error = ran.json()["error"].clone();
    assert!(error["causes"][2].as_str().unwrap().contains("No Op registered for Nope"), "{error}");
    let service = workspace.json(&["services", "show", "x"]);
    assert_eq!(service["state"], "Failed");
    assert!(workspace.ok(&["logs", "x"]).stdout.contains("No Op registered for Nope"));
    // A service that never worked has no clients, so its inputs may change.
    let again = workspace.json(&["deploy", DIGITS, "--name", "x"]);
    assert_eq!((&again["state"], &again["revision"]), (&"Ready".into(), &2.into()));
    workspace.ok(&["delete", "x"]);
}

#[test]
fn delete_leaves_nothing() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS, "--replicas", "2"]);
    assert_eq!(workspace.replicas("digits").len(), 2);
    // Special characters of paths and URLs in a name never reach another service.
    for other in ["digits?x", "digits/keys", "digits#", "digits%2f", "../services/digits"] {
        for command in [&["delete", other][..], &["services", "show", other], &["keys", other]] {
            let ran = workspace.run(command);
            assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
        }
    }
    assert_eq!(workspace.replicas("digits").len(), 2);
    workspace.ok(&["delete", "digits"]);
    assert!(workspace.replicas("digits").is_empty());
    assert!(!exists(&workspace.root.join("services/digits")));
    assert!(!exists(&workspace.root.join("routes/digits.json")));
    assert_eq!(request(&deployed).send().unwrap().0, 404);
    let ran = workspace.run(&["services", "show", "digits"]);
    assert_eq!(ran.code, 1);
    assert_eq!(workspace.json(&["models"])["items"][0]["name"], "digits", "the model stays");
    // The name is free again: a new service starts at revision 1 with new keys.
    let again = workspace.json(&["deploy", "digits:1"]);
    assert_eq!(again["revision"], 1);
    assert_ne!(again["primary_key"], deployed["primary_key"]);
}

#[test]
fn a_service_without_keys_is_open_and_closing_it_is_an_update() {
    let workspace = Workspace::new();
    let open = workspace.json(&["deploy", DIGITS, "--no-auth"]);
    assert!(open["primary_key"].is_null() && open["secondary_key"].is_null());
    assert_eq!(request(&open).send().unwrap().0, 200);
    workspace.ok(&["update", "digits", "--auth"]);
    assert_eq!(request(&open).send().unwrap().0, 401);
    let keys = workspace.json(&["keys", "digits"]);
    let uri = open["scoring_uri"].as_str().unwrap();
    assert_eq!(Request::new(uri, keys["primary_key"].as_str(), &sample()).send().unwrap().0, 200);
}

#[test]
fn names_and_paths_may_be_long_and_workspaces_stand_side_by_side() {
    let (long, other) = (Workspace::at_path_of(200), Workspace::new());
    let name = format!("A{}", "b".repeat(127));
    let one = long.json(&["deploy", DIGITS, "--name", &name]);
    let two = other.json(&["deploy", "examples/iris/iris.onnx", "--name", &name]);
    assert_ne!(one["scoring_uri"], two["scoring_uri"]);
    assert_eq!(request(&one).send().unwrap().0, 200);
    let crossed = Request::new(two["scoring_uri"].as_str().unwrap(), one["primary_key"].as_str(), &sample());
    assert_eq!(crossed.send().unwrap().0, 401, "another workspace's key opens nothing");
    assert!(long.ok(&["score", &name]).stdout.starts_with("{\"label\":[0]"));
    let ran = long.run(&["deploy", DIGITS, "--name", &format!("{name}b")]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("1 to 128 letters"), "{ran:?}");
}

#[test]
fn a_file_whose_name_is_made_alike_does_not_take_over_a_service() {
    let workspace = Workspace::new();
    let file = |name: &str| {
        let path = workspace.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(root().join(DIGITS), &path).unwrap();
        path.display().to_string()
    };
    let (first, other) = (file("my digits.onnx"), file("my+digits.onnx"));
    assert_eq!(workspace.json(&["deploy", &first])["name"], "my-digits");
    for second in [&other, &file("my-digits.onnx")] {
        let ran = workspace.run(&["deploy", second]);
        assert!(ran.code == 1 && ran.stderr.contains("which was made of `my digits`"), "{ran:?}");
        assert!(ran.stderr.contains("--name NAME"), "{ran:?}");
    }
    assert_eq!(workspace.json(&["models"])["items"].as_array().unwrap().len(), 1, "nothing was registered");
    assert_eq!(workspace.json(&["deploy", &file("elsewhere/my digits.onnx")])["name"], "my-digits");
    assert_eq!(workspace.json(&["deploy", &other, "--name", "plus"])["name"], "plus");
    assert_eq!(workspace.json(&["update", "my-digits", &other])["name"], "my-digits");
}

#[test]
fn services_have_the_names_that_clients_ask_for() {
    let workspace = Workspace::new();
    let address = workspace.json(&["up"])["gateway"]["address"].as_str().unwrap().to_owned();
    for name in ["MuC_EN_AdV", "a.b", "7"] {
        let deployed = workspace.json(&["deploy", DIGITS, "--name", name, "--no-auth"]);
        assert_eq!(deployed["name"], name);
        for path in [format!("/v2/models/{name}/ready"), format!("/v1/models/{name}")] {
            let answer = Request::get(&format!("http://{address}{path}")).send().unwrap();
            assert_eq!(answer.0, 200, "{path}: {answer:?}");
        }
        workspace.ok(&["score", name]);
        workspace.ok(&["delete", name]);
        // The model is deployed by its name, also one that looks like a file's.
        assert_eq!(workspace.json(&["deploy", name])["name"], name);
        workspace.ok(&["delete", name]);
    }
    let left: Vec<_> = std::fs::read_dir(workspace.root.join("services")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn fifty_services_are_deployed_at_once() {
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", DIGITS]);
    let names: Vec<_> = (0..50).map(|nth| format!("s{nth}")).collect();
    let deploys: Vec<_> = names
        .iter()
        .map(|name| {
            let mut command = workspace.command(&["--output", "json", "deploy", "digits:1", "--name", name]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for child in deploys {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let deployed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(request(&deployed).send().unwrap().0, 200);
    }
    assert_eq!(workspace.status()["services"]["Ready"], 50);
}

#[test]
fn web_pages_of_the_origins_that_are_named_may_score_and_others_may_not() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS, "--cors-origin", "https://app.example"]);
    assert_eq!(deployed["cors_origins"], json!(["https://app.example"]));
    let uri = deployed["scoring_uri"].as_str().unwrap();
    let (host, path) = uri.trim_start_matches("http://").split_once('/').unwrap();
    // Returns the whole answer in lower case.
    let ask = |origin: &str, key: Option<&str>, method: &str| {
        let body = if method == "OPTIONS" { String::new() } else { sample() };
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let asks =
            "access-control-request-method: POST\r\naccess-control-request-headers: authorization, x-a\r\n";
        let head =
            format!("{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\norigin: {origin}\r\n");
        let request = format!("{head}{asks}{key}content-length: {}\r\n\r\n{body}", body.len());
        Connection::tcp(host).unwrap().exchange(request).unwrap().to_lowercase()
    };
    let key = deployed["primary_key"].as_str();
    // The browser's preflight request carries no key.
    let asked = ask("https://app.example", None, "OPTIONS");
    assert!(asked.starts_with("http/1.1 204 "), "{asked}");
    assert!(asked.contains("access-control-allow-headers: authorization, x-a"), "{asked}");
    let allowed = "access-control-allow-origin: https://app.example\r\n";
    for (answer, status) in
        [(ask("https://app.example", key, "POST"), 200), (ask("https://app.example", None, "POST"), 401)]
    {
        assert!(answer.starts_with(&format!("http/1.1 {status} ")) && answer.contains(allowed), "{answer}");
    }
    let other = ask("https://other.example", key, "POST");
    assert!(!other.contains("access-control-allow"), "{other}");
    assert!(!ask("https://other.example", None, "OPTIONS").contains("access-control-allow"));
    // Origins belong to the service, not to a revision: no replica is started.
    let updated = workspace.json(&["update", "digits", "--no-cors"]);
    assert_eq!((&updated["revision"], &updated["cors_origins"]), (&deployed["revision"], &json!([])));
    assert!(!ask("https://app.example", None, "OPTIONS").contains("access-control-allow"));
    let refused = workspace.run(&["update", "digits", "--cors-origin", "https://app.example/"]);
    assert!(refused.code == 1 && refused.stderr.contains("is not a valid origin"), "{refused:?}");
}
