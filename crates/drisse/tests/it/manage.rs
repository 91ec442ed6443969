//! Models, keys, logs, operations, and the daemons of a workspace.

use crate::deploy::request;
use crate::workspace::Workspace;
use drisse_testkit::{Load, Request, wait};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

const DIGITS: &str = "examples/digits/digits.onnx";

#[test]
fn models_are_versions_by_content_with_tags_that_change_and_properties_that_only_grow() {
    let workspace = Workspace::new();
    let first =
        workspace.json(&["models", "register", DIGITS, "--tag", "stage=dev", "--property", "auc=0.9"]);
    assert_eq!((&first["name"], &first["version"]), (&"digits".into(), &1.into()));
    assert_eq!(
        workspace.json(&["models", "register", DIGITS])["version"],
        1,
        "the same files, the same version"
    );
    let second = workspace.variant("second");
    assert_eq!(workspace.json(&["models", "register", second.to_str().unwrap()])["version"], 2);
    let tagged = workspace.json(&["models", "tag", "digits:1", "stage=prod", "--property", "f1=0.8"]);
    assert_eq!(tagged["tags"], json!({ "stage": "prod" }));
    assert_eq!(tagged["properties"], json!({ "auc": "0.9", "f1": "0.8" }));
    let ran = workspace.run(&["models", "tag", "digits:1", "--property", "auc=1.0"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("property `auc` of `digits:1` is `0.9` and cannot be changed"), "{ran:?}");
    let names = |arguments: &[&str]| {
        let page = workspace.json(&[&["models"], arguments].concat());
        let items = page["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|model| format!("{}:{}", model["name"].as_str().unwrap(), model["version"]))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&["--tag", "stage=prod"]), ["digits:1"]);
    assert_eq!(names(&["--property", "f1"]), ["digits:1"]);
    assert_eq!(names(&["--framework", "scikit-learn", "--limit", "1"]), ["digits:1"]);
    assert_eq!(names(&["--limit", "1", "--after", "digits:1"]), ["digits:2"]);
    assert_eq!(workspace.json(&["models", "show", "digits"])["version"], 2, "the newest without a version");
}

#[test]
fn a_service_says_how_its_model_is_run_until_it_is_left_to_find_out_again() {
    let workspace = Workspace::new();
    let line = || {
        let processes = workspace.processes();
        processes.into_iter().find(|(_, line)| line.contains("--replica")).unwrap().1
    };
    let deployed =
        workspace.json(&["deploy", DIGITS, "--threads", "2", "--max-batch", "1", "--triton-metrics"]);
    assert_eq!(deployed["revision"], 1);
    assert!(
        line().contains("--threads 2 --max-batch 1 ") && line().contains("--triton-metrics"),
        "{}",
        line()
    );
    assert_eq!(workspace.json(&["update", "digits", "--threads", "2"])["revision"], 1, "as it was");
    assert_eq!(workspace.json(&["update", "digits", "--threads", "auto", "--workers", "1"])["revision"], 2);
    wait("the old one ends", || workspace.replicas("digits").len() == 1);
    assert!(!line().contains("--threads") && line().contains("--workers 1 --max-batch 1 "), "{}", line());
    let shown = workspace.json(&["services", "show", "digits"]);
    let serving = json!({ "workers": 1, "max_batch": 1, "triton_metrics": true });
    assert_eq!(shown["revisions"][0]["serving"], serving);
    let shown = workspace.ok(&["services", "show", "digits"]).stdout;
    assert!(shown.contains("workers 1, max-batch 1, triton-metrics"), "{shown}");
    let ran = workspace.run(&["update", "digits", "--workers", "0"]);
    assert!(ran.code == 1 && ran.stderr.contains("expected a number from 1 to 1024, or `auto`"), "{ran:?}");
}

#[test]
fn a_model_in_use_is_not_deleted_and_one_that_is_deleted_leaves_no_blob() {
    let workspace = Workspace::new();
    workspace.ok(&["deploy", DIGITS]);
    let ran = workspace.run(&["models", "delete", "digits:1"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("model `digits:1` is in use by service `digits`"), "{ran:?}");
    workspace.ok(&["delete", "digits"]);
    workspace.ok(&["models", "delete", "digits:1"]);
    let blobs = workspace.root.join("store/blobs/sha256");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(workspace.root.join("store/views")).unwrap().count(), 0);
    assert_eq!(workspace.run(&["deploy", "digits:1"]).code, 1);
}

#[test]
fn verify_finds_a_flipped_bit_and_registering_again_mends_it() {
    let workspace = Workspace::new();
    let model = workspace.json(&["models", "register", DIGITS]);
    workspace.ok(&["models", "verify"]);
    let digest = std::fs::read(crate::support::root().join(DIGITS)).unwrap();
    let blobs = workspace.root.join("store/blobs/sha256");
    let weights = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    let weights = weights.into_iter().find(|path| std::fs::read(path).unwrap() == digest).unwrap();
    let mut bytes = digest.clone();
    bytes[1000] ^= 1;
    std::fs::set_permissions(&weights, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&weights, bytes).unwrap();
    let ran = workspace.run(&["models", "verify", "digits:1"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("model `digits:1` is damaged") && ran.stderr.contains("do not match its digest"),
        "{ran:?}"
    );
    assert_eq!(workspace.json(&["models", "register", DIGITS])["digest"], model["digest"]);
    workspace.ok(&["models", "verify"]);
}

#[test]
fn a_key_of_ones_own_is_read_from_standard_input_and_must_not_be_guessable() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let set = |key: &str| {
        let mut command = workspace.command(&["keys", "digits", "--set", "primary"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(key.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let refused = set("short");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("16 to 256 visible ASCII characters") && !said.contains("short"), "{said}");
    assert!(set("a-key-of-ones-own\n").status.success());
    let mut own = request(&deployed);
    own.bytes = String::from_utf8(own.bytes)
        .unwrap()
        .replace(deployed["primary_key"].as_str().unwrap(), "a-key-of-ones-own")
        .into_bytes();
    assert_eq!(own.send().unwrap().0, 200);
    assert_eq!(
        workspace.ok(&["keys", "digits", "--header"]).stdout,
        "Authorization: Bearer a-key-of-ones-own\n"
    );
}

#[test]
fn followed_logs_go_on_across_an_update_and_a_killed_control_plane() {
    let workspace = Workspace::new();
    workspace.ok(&["deploy", DIGITS]);
    let mut logs = workspace.command(&["logs", "digits", "-f"]);
    let mut logs = logs.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    let mut until = |text: &str| {
        let found = lines.by_ref().map(Result::unwrap).find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no line with {text}"));
    };
    until("/digits/1/");
    let second = workspace.variant("second");
    workspace.ok(&["update", "digits", second.to_str().unwrap()]);
    until("/digits/2/");
    crate::workspace::kill(u32::try_from(workspace.pid("control").unwrap()).unwrap(), "-9");
    let third = workspace.variant("third");
    workspace.ok(&["update", "digits", third.to_str().unwrap()]);
    until("/digits/3/");
    logs.kill().unwrap();
    logs.wait().unwrap();
}

#[test]
fn an_interrupted_deploy_is_only_detached_and_its_operation_can_be_followed_and_canceled() {
    let workspace = Workspace::new();
    let slow = |arguments: &[&str]| {
        let mut command = workspace.command(arguments);
        command.env("DRISSE_FAKE", "10m");
        command
    };
    assert!(slow(&["models", "register", DIGITS]).output().unwrap().status.success());
    let deploy = ["deploy", "digits:1", "--name", "slow", "--target", "fake"];
    let mut child = slow(&deploy).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("revision 1 of service slow is wanted")));
    crate::workspace::kill(child.id(), "-INT");
    let said: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let said = said.join("\n");
    assert!(
        said.contains("detached: the operation continues") && said.contains("operations cancel 2"),
        "{said}"
    );
    assert_eq!(workspace.json(&["services", "show", "slow"])["state"], "Deploying");

    // A service can have only one change at a time.
    let ran = workspace.run(&["update", "slow", "--replicas", "2"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("service `slow` is being changed by operation 2"), "{ran:?}");

    workspace.ok(&["operations", "cancel", "2"]);
    let ended = workspace.json(&["operations", "show", "2"]);
    assert_eq!(ended["state"], "Canceled", "{ended}");
    let service = workspace.json(&["services", "show", "slow"]);
    assert_eq!(service["state"], "Failed");
    assert_eq!(service["error"]["message"], "the deployment was canceled");
    let ran = workspace.run(&["operations", "cancel", "2"]);
    assert!(ran.code == 1 && ran.stderr.contains("operation 2 has ended already: Canceled"), "{ran:?}");
}

#[test]
fn a_deployment_that_takes_too_long_ends_and_says_what_was_missing() {
    let workspace = Workspace::new();
    let mut up = workspace.command(&["models", "register", DIGITS]);
    assert!(up.env("DRISSE_FAKE", "10m").output().unwrap().status.success());
    let ran = workspace.run(&["deploy", "digits:1", "--name", "s", "--target", "fake", "--timeout", "300ms"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("error: deploy of `s` did not end in time"), "{ran:?}");
    assert!(ran.stderr.contains("Caused by: 0 replicas are ready, 1 are starting, 0 have died"), "{ran:?}");
    assert_eq!(workspace.json(&["operations"])["items"][0]["state"], "TimedOut");
    let listed = workspace.json(&["operations", "--subject", "s"]);
    assert_eq!(
        (&listed["items"][0]["kind"], listed["items"].as_array().unwrap().len()),
        (&"deploy".into(), 1)
    );
    assert_eq!(workspace.run(&["operations", "show", "99"]).code, 1);
}

#[test]
fn the_gateway_serves_https_and_http2_and_an_address_of_choice_must_be_free() {
    let workspace = Workspace::new();
    let (certificate, key) = crate::remote::certificate(&workspace, &["localhost", "127.0.0.1"]);
    let (certificate, key) = (&*certificate, &*key);
    let up = workspace.json(&["up", "--gateway", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key]);
    assert_eq!(up["gateway"]["scheme"], "https");
    let deployed = workspace.json(&["deploy", DIGITS]);
    let uri = deployed["scoring_uri"].as_str().unwrap();
    assert!(uri.starts_with("https://127.0.0.1:"), "{uri}");
    for version in ["--http1.1", "--http2"] {
        let mut curl = Command::new("curl");
        let header = format!("authorization: Bearer {}", deployed["primary_key"].as_str().unwrap());
        curl.args([
            "-s",
            version,
            "--cacert",
            certificate,
            "-H",
            &header,
            "-d",
            "@examples/digits/sample.json",
            uri,
        ]);
        let answer = curl.current_dir(crate::support::root()).output().unwrap();
        assert!(answer.stdout.starts_with(b"{\"label\":[0]"), "{version}: {answer:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let ran = workspace.run(&["up", "--gateway", &taken]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("error: cannot open the gateway's address"), "{ran:?}");
    assert!(ran.stderr.contains("hint: choose another one"), "{ran:?}");
}

#[test]
fn the_gateway_is_opened_to_the_network_and_closed_again_without_a_failed_request() {
    let workspace = Workspace::new();
    workspace.ok(&["up", "--gateway", "127.0.0.1:0"]);
    let deployed = workspace.json(&["deploy", DIGITS, "--no-auth", "--max-wait", "10s"]);
    let uri = deployed["scoring_uri"].as_str().unwrap();
    let sample = std::fs::read_to_string(crate::support::root().join("examples/digits/sample.json")).unwrap();
    let request = Request::new(uri, None, &sample);
    // One on open connections, and one with a new connection for each request.
    let closing = String::from_utf8(request.bytes.clone()).unwrap();
    let closing = closing.replacen("\r\nhost", "\r\nconnection: close\r\nhost", 1).into_bytes();
    let loads = [Load::start(2, &request), Load::start(2, &Request { bytes: closing, ..request.clone() })];
    let port = request.host.split(':').nth(1).unwrap();
    let elsewhere = || std::net::TcpStream::connect(format!("127.0.0.2:{port}")).is_ok();
    for _ in 0..2 {
        assert!(!elsewhere());
        workspace.ok(&["up", "--gateway", &format!("0.0.0.0:{port}")]);
        assert!(elsewhere());
        assert_eq!(workspace.status()["gateway"]["address"], format!("0.0.0.0:{port}"));
        // The next gateway gets both sockets, too.
        crate::workspace::kill(u32::try_from(workspace.pid("control").unwrap()).unwrap(), "-9");
        workspace.ok(&["up", "--idle-timeout", "80s"]);
        loads.iter().for_each(|load| load.more(50));
        workspace.ok(&["up", "--gateway", &request.host, "--idle-timeout", "75s"]);
        loads.iter().for_each(|load| load.more(50));
        wait("the end of the earlier gateway", || !elsewhere());
    }
    for load in loads {
        let seen = load.end();
        assert!(seen.failures.is_empty() && seen.answered > 200, "{seen:?}");
    }
    // Other processes cannot bind the port meanwhile.
    assert!(std::net::TcpListener::bind(&request.host).is_err());
}

#[test]
fn a_gateway_with_a_certificate_for_its_public_name_is_deployed_to_and_scored() {
    let workspace = Workspace::new();
    let (certificate, key) = crate::remote::certificate(&workspace, &["models.example"]);
    workspace.ok(&["up", "--gateway", "127.0.0.1:0", "--tls-cert", &certificate, "--tls-key", &key]);
    let deployed = workspace.json(&["deploy", DIGITS]);
    assert!(deployed["answer"]["label"].is_array(), "{deployed}");
    assert!(deployed["scoring_uri"].as_str().unwrap().starts_with("https://models.example:"), "{deployed}");
    workspace.ok(&["up", "--public-url", "https://ml.example/"]);
    workspace.ok(&["score", "digits"]);
    let shown = workspace.json(&["services", "show", "digits"]);
    assert_eq!(shown["scoring_uri"], "https://ml.example/api/v1/service/digits/score");
    workspace.ok(&["up", "--no-public-url"]);
    let shown = workspace.json(&["services", "show", "digits"]);
    assert!(shown["scoring_uri"].as_str().unwrap().starts_with("https://models.example:"), "{shown}");
}

#[test]
fn the_unit_for_boot_is_one_systemd_accepts() {
    let workspace = Workspace::new();
    let unit = workspace.folder.path().join("drisse.service");
    workspace.ok(&["up", "--boot", "--unit", unit.to_str().unwrap()]);
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains("KillMode=process"), "{text}");
    let verified = Command::new("systemd-analyze").args(["verify", unit.to_str().unwrap()]).output();
    match verified {
        Ok(verified) => assert!(verified.status.success(), "{verified:?}"),
        Err(_) => assert!(std::env::var_os("CI").is_none(), "systemd-analyze is needed here"),
    }
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        let ran = workspace.run(&["up", "--boot"]);
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains("this machine was not started by systemd"), "{ran:?}");
    }
}

#[test]
fn nothing_in_a_workspace_can_be_read_by_others() {
    let workspace = Workspace::new();
    workspace.ok(&["deploy", DIGITS]);
    let mut folders = vec![workspace.root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o077;
            assert_eq!(mode, 0, "{} has mode {:o}", entry.path().display(), metadata.permissions().mode());
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

#[test]
fn doctor_names_a_remedy_for_what_is_missing_and_status_starts_nothing() {
    let workspace = Workspace::new();
    let status = workspace.status();
    assert!(status["control"]["pid"].is_null() && status["gateway"]["pid"].is_null());
    let doctor = workspace.json(&["doctor"]);
    assert_eq!(doctor["works"], true);
    let checks = doctor["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["state"] == "ok" || check["remedy"].is_string()), "{doctor}");
    assert!(workspace.pid("control").is_none(), "neither starts anything");
    for shell in ["bash", "zsh", "fish"] {
        assert!(workspace.ok(&["completions", shell]).stdout.contains("drisse"));
    }
}
