//! `drisse serve`, as a user sees it.

use crate::support::{Serving, drisse, library, output, root};
use drisse_testkit::wait;
use std::io::Read;
use std::process::{Command, Stdio};

#[test]
fn a_hangup_ends_no_server_without_a_terminal_and_a_log_that_was_moved_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    // The tests may run under `nohup`, which has SIGHUP ignored.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=HUP", "setsid"])
        .arg(env!("CARGO_BIN_EXE_drisse"))
        .env("DRISSE_ONNXRUNTIME", library());
    command.args(["serve", "--output", "json", "examples/digits/digits.onnx", "--listen", "127.0.0.1:0"]);
    let serving = Serving::running(command.arg("--log-file").arg(&log).current_dir(root()));
    let said = || std::fs::read_to_string(&log).unwrap_or_default().contains("SIGHUP");
    serving.signal("-HUP");
    wait("the hangup is logged", said);
    std::fs::rename(&log, folder.path().join("moved")).unwrap();
    wait("the log is begun again", || log.exists());
    serving.signal("-HUP");
    wait("the new log is written", said);
    assert_eq!(serving.ask("GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").0, 200);
}

#[test]
fn serves_the_example_and_ends_with_0_on_sigterm() {
    let mut serving = Serving::start(&["examples/digits/digits.onnx", "--listen", "127.0.0.1:0"]);
    let sample = std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap();
    let (status, answer) = serving.post("/score", "", &sample);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.starts_with("{\"label\":[0],\"probabilities\":[["), "{answer}");
    assert_eq!(serving.document["models"][0]["name"], "digits");
    assert_eq!(serving.document["models"][0]["scoring_uri"], format!("{}/score", serving.url()));
    serving.signal("-TERM");
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_option_beats_its_variable_and_the_last_of_two_counts() {
    let arguments =
        ["serve", "--output", "json", "examples/iris", "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:0"];
    let serving = Serving::running(
        drisse(&arguments)
            .envs([("DRISSE_LISTEN", "127.0.0.1:1"), ("DRISSE_MAX_BODY", "1KiB")])
            .stderr(Stdio::null()),
    );
    assert_eq!(serving.post("/score", "", &" ".repeat(1025)).0, 413, "the variable is read");
}

#[test]
fn an_image_listens_at_the_port_that_the_variable_port_names() {
    let start = |port: &str, more: &[&str]| {
        let arguments = ["serve", "--output", "json", "examples/iris", "--image", "--admin", "127.0.0.1:0"];
        let mut command = drisse(&arguments);
        command.args(["--no-auth"]).args(more).env("PORT", port);
        command
    };
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let busy = start(&port, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&busy.stdout);
    assert!(said.contains(&format!("0.0.0.0:{port}")), "it wants the port that is taken: {said}");
    drop(Serving::running(start(&port, &["--listen", "127.0.0.1:0"]).stderr(Stdio::null())));
    for wrong in ["0", "65536", "http", "-1"] {
        let refused = start(wrong, &[]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stdout);
        assert!(refused.status.code() == Some(1) && said.contains("PORT is not a port"), "{wrong}: {said}");
    }
}

#[test]
fn a_hard_limit_of_0_for_core_dumps_is_strict_enough() {
    let mut shell = match rustix::process::geteuid().is_root() {
        // Root could raise the limit.
        true => Command::new("setpriv"),
        false => Command::new("env"),
    };
    if rustix::process::geteuid().is_root() {
        shell.args(["--bounding-set", "-sys_resource"]);
    }
    shell.args(["sh", "-c", "ulimit -c 0 && exec \"$@\"", "sh"]);
    let command = drisse(&["serve", "--output", "json", "--listen", "127.0.0.1:0", "examples/iris"]);
    shell.arg(command.get_program()).args(command.get_args()).current_dir(root());
    let serving = Serving::running(shell.env("DRISSE_ONNXRUNTIME", library()).stderr(Stdio::null()));
    assert_eq!(serving.ask("GET /v2/health/ready HTTP/1.0\r\n\r\n").0, 200);
}

#[test]
fn a_package_is_served_by_the_engine_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("examples/digits/digits.onnx"), folder.path().join("digits.onnx")).unwrap();
    let names = |engine: &str| {
        std::fs::write(folder.path().join("drisse.json"), format!("{{\"engine\":\"{engine}\"}}")).unwrap();
    };
    let arguments = ["serve", "--output", "json", "--listen", "127.0.0.1:0", folder.path().to_str().unwrap()];
    names("fake");
    let serving = Serving::running(drisse(&arguments).env("DRISSE_FAKE", "0s").stderr(Stdio::null()));
    let body = format!("{{\"data\":[[{}]]}}", vec!["7"; 64].join(","));
    let (status, answer) = serving.post("/score", "", &body);
    assert!(status == 200 && answer.contains("[7.0,7.0,"), "the fake engine echoes: {answer}");
    let (_, model) = serving.ask("GET /v2/models/digits HTTP/1.0\r\n\r\n");
    assert!(model.contains("\"platform\":\"fake\""), "{model}");
    for (engine, known) in [
        ("npu", "`npu` not found; known engines: `onnx`"),
        ("fake", "`fake` not found; known engines: `onnx`"),
    ] {
        names(engine);
        let (code, _, stderr) = output(&["serve", folder.path().to_str().unwrap()]);
        assert_eq!(code, 1);
        assert!(stderr.contains(&format!("engine {known}")), "{stderr}");
    }
}

#[test]
fn a_log_that_cannot_be_written_does_not_stop_requests() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut serving = Serving::logging_to(&["examples/digits/digits.onnx", "--listen", "127.0.0.1:0"], full);
    let sample = std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap();
    assert_eq!(serving.post("/score", "", &sample).0, 200);
    serving.signal("-TERM");
    assert_eq!(serving.child.wait().unwrap().code(), Some(0), "no thread has panicked");
}

#[test]
fn the_curl_line_it_prints_works_when_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("my keys");
    std::fs::write(&keys, "# mine\nsecret-key\n").unwrap();
    let model = folder.path().join("plain.onnx");
    std::fs::copy(root().join("examples/glyph/glyph.onnx"), &model).unwrap();
    let paths = [model.to_str().unwrap(), keys.to_str().unwrap()];
    let example = |name: &str| root().join("examples").join(name).display().to_string();
    let (iris, wine, digits) = (&*example("iris"), &*example("wine"), &*example("digits"));
    for arguments in [
        vec!["serve", iris, "--listen", "127.0.0.1:0"],
        vec!["serve", paths[0], "--listen", "127.0.0.1:0", "--keys", paths[1]],
        vec!["serve", wine, "--listen", "127.0.0.1:0", "--keys", "my keys"],
        vec!["serve", digits, iris, "--listen", "127.0.0.1:0", "--keys", paths[1]],
    ] {
        let mut child = drisse(&arguments).current_dir(folder.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let line = loop {
            line.clear();
            assert!(
                std::io::BufRead::read_line(&mut stderr, &mut line).unwrap() > 0,
                "{arguments:?} said no more"
            );
            if line.contains("curl") {
                break line.trim().to_owned();
            }
        };
        assert!(!line.contains("secret-key"), "no key in a line to paste: {line}");
        let pasted = std::process::Command::new("sh").args(["-c", &line]).current_dir("/").output().unwrap();
        let answer: serde_json::Value =
            serde_json::from_slice(&pasted.stdout).unwrap_or_else(|_| panic!("{line}: {pasted:?}"));
        assert!(answer.get("message").is_none(), "{line}: {answer}");
        child.kill().unwrap();
        child.wait().unwrap();
        let _ = stderr.read_to_string(&mut String::new());
    }
}

#[test]
fn a_model_that_cannot_be_loaded_says_which_operator_and_exits_1() {
    let model = "crates/drisse-engines/tests/models/unknown_operator.onnx";
    let (code, stdout, stderr) = output(&["serve", model, "--listen", "127.0.0.1:0"]);
    assert_eq!((code, &*stdout), (1, ""));
    insta::assert_snapshot!(stderr);
}

#[test]
fn what_the_user_can_mend_exits_1_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let empty_keys = folder.path().join("keys");
    std::fs::write(&empty_keys, "\n").unwrap();
    let keys = empty_keys.to_str().unwrap();
    let digits = "examples/digits/digits.onnx";
    let mut all = String::new();
    for arguments in [
        vec!["serve", digits, "--listen", "0.0.0.0:0"],
        vec!["serve", digits, digits],
        vec!["serve", "/nowhere.onnx"],
        vec!["serve", "examples/requirements.txt"],
        vec!["serve", "x y=examples/digits"],
        vec!["serve", digits, "--keys", keys],
        vec!["serve", digits, "--listen", "127.0.0.1:0", "--sample", "examples/iris/sample.json"],
        vec!["serve", digits, "--listen", "127.0.0.1:0", "--onnxruntime", "/nowhere/libonnxruntime.so"],
        vec!["serve", digits, "--max-wait", "soon"],
    ] {
        let (code, stdout, stderr) = output(&arguments);
        assert_eq!((code, &*stdout), (1, ""), "{arguments:?}: {stderr}");
        all += &format!("$ drisse {}\n{stderr}\n", arguments.join(" "));
    }
    insta::assert_snapshot!(all.replace(folder.path().to_str().unwrap(), "FOLDER"));
}

#[test]
fn a_taken_port_is_an_error_before_anything_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, stderr) = output(&["serve", "examples/digits", "--listen", &address]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with(&format!("error: cannot listen on {address}")), "{stderr}");
    assert!(stderr.contains("hint: another server listens there"), "{stderr}");
}

#[test]
fn a_unix_socket_alone_opens_no_port_and_is_closed_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let serving = Serving::start(&["examples/digits", "--unix", socket.to_str().unwrap()]);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let fds = std::fs::read_dir(format!("/proc/{}/fd", serving.child.id())).unwrap();
    let sockets: Vec<_> = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).collect();
    let tcp = std::fs::read_to_string(format!("/proc/{}/net/tcp", serving.child.id())).unwrap();
    for line in tcp.lines().skip(1) {
        let inode = line.split_whitespace().nth(9).unwrap();
        assert!(!sockets.iter().any(|link| link.to_string_lossy() == format!("socket:[{inode}]")), "{line}");
    }
    // A second server does not take over a socket in use.
    let (code, _, stderr) = output(&["serve", "examples/iris", "--unix", socket.to_str().unwrap()]);
    assert_eq!(code, 1, "{stderr}");
}

#[test]
fn a_file_in_a_sockets_place_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    for flag in ["--unix", "--admin"] {
        let endpoint =
            if flag == "--unix" { path.display().to_string() } else { format!("unix:{}", path.display()) };
        let (code, _, stderr) =
            output(&["serve", "examples/digits", "--listen", "127.0.0.1:0", flag, &endpoint]);
        assert_eq!(code, 1);
        assert!(stderr.contains("a file that is not a socket is there already"), "{stderr}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }
}

#[test]
fn a_killed_servers_socket_is_taken_over_and_a_clean_end_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let arguments = ["examples/digits", "--unix", socket.to_str().unwrap()];
    drop(Serving::start(&arguments));
    assert!(socket.exists(), "killed, it left its socket");
    let mut second = Serving::start(&arguments);
    second.signal("-TERM");
    assert_eq!(second.child.wait().unwrap().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_wrong_flag_is_a_document_too_when_one_was_asked_for() {
    let (code, stdout, stderr) =
        output(&["serve", "examples/digits", "--listen", "8000", "--output", "json"]);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &*stderr), (1, ""));
    let message = document["error"]["message"].as_str().unwrap();
    assert!(message.contains("'8000'") && message.contains("such as 127.0.0.1:8000"), "{message}");
}

#[test]
fn a_log_file_makes_room_for_a_new_one_when_it_is_large() {
    let folder = tempfile::tempdir().unwrap();
    let (log, older) = (folder.path().join("log"), folder.path().join("log.1"));
    // A sparse file larger than 10 MiB.
    std::fs::File::create(&log).unwrap().set_len(11 << 20).unwrap();
    let arguments = ["examples/digits", "--listen", "127.0.0.1:0", "--log-file", log.to_str().unwrap()];
    let mut serving = Serving::start(&arguments);
    wait("the rotation", || older.exists());
    serving.signal("-TERM");
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
    assert!(std::fs::metadata(&older).unwrap().len() >= 11 << 20);
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("stopping: answering the requests under way"), "{said}");
}

#[test]
fn a_model_of_text_is_served_whatever_locales_the_machine_has() {
    let model = "crates/drisse-engines/tests/models/lowercase.onnx";
    let serving = Serving::start(&[model, "--listen", "127.0.0.1:0"]);
    let answer = serving.post("/score", "", r#"{"data": {"text": ["\u00c0B", "STRASSE", "\u0416"]}}"#);
    assert_eq!(answer, (200, "{\"lower\":[\"\u{e0}b\",\"strasse\",\"\u{436}\"]}".to_owned()));
}
