//! Every error that the user can fix, in one snapshot.

use crate::workspace::Workspace;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

#[test]
fn what_the_user_can_mend_exits_1_and_says_what_to_do() {
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", "examples/digits/digits.onnx"]);
    let mut all = String::new();
    for arguments in [
        &["deploy", "digit"][..],
        &["deploy", "nowhere/model.onnx"],
        &["deploy", "examples/requirements.txt"],
        &["deploy", "examples"],
        &["deploy", "digits:9"],
        &["deploy", "digits:x"],
        &["deploy", "oci://127.0.0.1:1/digits"],
        &["deploy", "examples/digits/digits.onnx", "--name", "my digits"],
        &["deploy", "digits:1", "--target", "moon"],
        &["deploy", "digits:1", "--replicas", "0"],
        &["deploy", "digits:1", "--sample", "examples/iris/sample.json"],
        &["deploy", "examples/digits/digits.onnx", "--sample", "examples/iris/sample.json"],
        &["deploy", "examples/digits/digits.onnx", "--sample", "nowhere.json"],
        &["deploy", "digits:1", "--tag", "novalue"],
        &["update", "nothing", "--replicas", "2"],
        &["rollback", "nothing"],
        &["delete", "nothing"],
        &["score", "nothing"],
        &["logs", "nothing"],
        &["keys", "nothing"],
        &["services", "show", "nothing"],
        &["models", "show", "nothing"],
        &["models", "register", "examples/digits/sample.json"],
        &["models", "delete", "digits:7"],
        &["targets", "check", "moon"],
        &["operations", "show", "99"],
        &["operations", "cancel", "99"],
    ] {
        let ran = workspace.run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{arguments:?}");
        let stderr: String =
            ran.stderr.lines().filter(|line| !is_progress(line)).map(|line| format!("{line}\n")).collect();
        all += &format!("$ drisse {}\n{stderr}\n", arguments.join(" "));
    }
    insta::assert_snapshot!(workspace.neutral(&all));
}

/// Whether a line reports progress with the elapsed time.
fn is_progress(line: &str) -> bool {
    line.trim_start().split_once(" s  ").is_some_and(|(time, _)| time.parse::<f64>().is_ok())
        || line.contains("is in use: the gateway listens on")
}

#[test]
fn a_failure_is_a_document_where_one_was_asked_for() {
    let workspace = Workspace::new();
    let ran = workspace.run(&["--output", "json", "score", "nothing"]);
    assert_eq!(ran.code, 1);
    let error = ran.json()["error"].clone();
    assert_eq!(error["message"], "service `nothing` not found");
    assert_eq!(error["hint"], "`drisse services` lists the services");
    assert_eq!(error["causes"], serde_json::json!([]));
}

#[test]
fn a_request_that_the_model_refuses_is_an_error_with_its_status() {
    let workspace = Workspace::new();
    workspace.ok(&["deploy", "examples/digits/digits.onnx"]);
    let body = workspace.folder.path().join("body.json");
    std::fs::write(&body, "{\"data\": [1, 2]}").unwrap();
    let ran = workspace.run(&["score", "digits", "--file", body.to_str().unwrap()]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("service `digits` answered 400: input \"X\""), "{ran:?}");
}

#[test]
fn output_that_cannot_be_written_is_an_error_unless_its_reader_has_gone() {
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", "examples/digits/digits.onnx"]);
    for arguments in [
        &["inspect", "examples/digits/digits.onnx"][..],
        &["inspect", "examples/digits/digits.onnx", "--output", "json"],
        &["models"],
        &["models", "show", "digits:7", "--output", "json"],
        &["status", "--output", "json"],
        &["completions", "bash"],
        &["conformance", "--list"],
        &["--help"],
        &["deploy", "--help"],
        &["--version"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = workspace.command(arguments).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with("error: "), "{arguments:?}: {said}");
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let ran = workspace.command(arguments).stdout(write).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        let is_wrong = arguments.contains(&"digits:7");
        assert!(is_wrong || (ran.status.code() == Some(0) && said.is_empty()), "{arguments:?}: {ran:?}");
    }
}

/// Bytes that are not UTF-8, as part of a name.
fn not_text(start: &[u8]) -> OsString {
    OsString::from_vec([start, b"x\xff"].concat())
}

#[test]
fn no_argument_variable_or_file_name_ends_a_command_with_a_panic() {
    let workspace = Workspace::new();
    let ended = |command: &mut Command| {
        let ran = command.stdin(Stdio::null()).output().unwrap();
        let error = String::from_utf8_lossy(&ran.stderr).into_owned();
        let is_error = matches!(ran.status.code(), Some(1 | 2)) && error.contains("error: ");
        assert!(is_error && !error.contains("panicked"), "{command:?}: {ran:?}");
    };
    let commands = [
        "deploy",
        "update",
        "keys",
        "logs",
        "score",
        "delete",
        "rollback",
        "services show",
        "models show",
        "models register",
        "models delete",
        "models push",
        "models pull",
        "models sign",
        "inspect",
        "profile",
        "operations show",
        "image push",
        "import triton",
        "serve --no-auth",
        "conformance",
    ];
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        for argument in [not_text(b""), OsString::new(), OsString::from("a".repeat(100_000))] {
            ended(workspace.command(&words).arg(argument));
        }
    }
    let variables =
        ["DRISSE_WORKSPACE", "DRISSE_ALIAS", "DRISSE_MAX_WAIT", "DRISSE_LISTEN", "DRISSE_ONNXRUNTIME"];
    for variable in variables {
        let command = &mut workspace.command(&["serve", "examples/digits", "--no-auth"]);
        ended(command.env(variable, not_text(b"/nowhere/")));
    }
    let file = workspace.folder.path().join(not_text(b"")).with_extension("onnx");
    std::fs::copy(crate::support::root().join("examples/digits/digits.onnx"), &file).unwrap();
    for command in ["deploy", "models register"] {
        ended(workspace.command(&command.split(' ').collect::<Vec<_>>()).arg(&file));
    }
}
