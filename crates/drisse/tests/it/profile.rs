//! `drisse profile`, as a user sees it.

use crate::support::output;
use crate::workspace::Workspace;
use serde_json::Value;

const DIGITS: &str = "examples/digits/digits.onnx";

#[test]
fn each_way_to_run_a_model_is_measured_and_one_is_recommended() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let page = page.to_str().unwrap();
    let (code, stdout, stderr) =
        output(&["profile", DIGITS, "--time", "2ms", "--html", page, "--output", "json"]);
    assert_eq!(code, 0, "{stderr}");
    let document: Value = serde_json::from_str(&stdout).unwrap();
    let points = document["points"].as_array().unwrap();
    assert!(points.iter().any(|point| point["batch"] == 4), "{document}");
    assert!(points.iter().all(|point| point["rows_per_second"].as_f64() > Some(0.0)), "{document}");
    let recommended = &document["recommended"];
    assert!(points.iter().any(|point| point["p99_seconds"] == recommended["p99_seconds"]));
    assert!(recommended["memory"].as_u64().unwrap() >= recommended["memory_bytes"].as_u64().unwrap());
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<tr").count(), points.len() + 1, "a row each, and the heading");
    assert!(page.contains("<svg") && !page.contains("http"), "it needs nothing else");
}

#[test]
fn people_get_a_table_a_plot_and_a_command() {
    let (code, stdout, _) = output(&["profile", DIGITS, "--time", "2ms"]);
    assert_eq!(code, 0);
    for part in ["threads  workers  batch", "p99 ms\n", "* recommended", "drisse deploy examples/digits"] {
        assert!(stdout.contains(part), "{part} in\n{stdout}");
    }
}

#[test]
fn a_goal_that_nothing_reaches_is_the_users_to_mend() {
    let (code, _, stderr) = output(&["profile", DIGITS, "--time", "1ms", "--latency", "0.01us"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("no setting runs examples/digits/digits.onnx here within 10ns"), "{stderr}");
}

#[test]
fn a_registered_model_is_measured_by_its_name() {
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", DIGITS]);
    let ran = workspace.ok(&["profile", "digits:1", "--time", "1ms"]);
    assert!(ran.stdout.contains("drisse deploy digits:1 --threads"), "{ran:?}");
    let ran = workspace.run(&["profile", "unknown", "--time", "1ms"]);
    assert!(ran.code == 1 && ran.stderr.contains("unknown"), "{ran:?}");
}
