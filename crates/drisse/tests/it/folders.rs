//! Folders and repositories of models as other servers and tools have them.

use crate::support::{Serving, output, root};
use crate::workspace::Workspace;
use drisse_testkit::Request;
use serde_json::{Value, json};
use std::fs::{self, create_dir_all};
use std::path::Path;

/// Copies an example model to a path, and makes its folder.
fn place(example: &str, path: &Path) {
    create_dir_all(path.parent().unwrap()).unwrap();
    fs::copy(root().join(format!("examples/{example}/{example}.onnx")), path).unwrap();
}

/// Writes a Triton repository: `Digits_MLP` with two versions, `iris.v1` without a configuration, and one in Python.
fn repository(folder: &Path) {
    place("glyph", &folder.join("Digits_MLP/1/model.onnx"));
    place("digits", &folder.join("Digits_MLP/3/model.onnx"));
    let config = "name: \"Digits_MLP\"\nbackend: \"onnxruntime\"\nmax_batch_size: 8\ninstance_group [{ count: 2 }]\n\
                  optimization { }\n";
    fs::write(folder.join("Digits_MLP/config.pbtxt"), config).unwrap();
    place("iris", &folder.join("iris.v1/1/model.onnx"));
    create_dir_all(folder.join("tokens/1")).unwrap();
    fs::write(folder.join("tokens/1/model.py"), "import numpy").unwrap();
}

fn sample(example: &str) -> String {
    fs::read_to_string(root().join(format!("examples/{example}/sample.json"))).unwrap()
}

#[test]
fn a_triton_repository_is_served_under_its_names_and_versions() {
    let folder = tempfile::tempdir().unwrap();
    repository(folder.path());
    let path = folder.path().to_str().unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let server = Serving::logging_to(&["--listen", "127.0.0.1:0", "--repository", path], log);
    let get = |path: &str| Request::get(&format!("{}{path}", server.url())).send().unwrap();
    let (status, document) = get("/v2/models/Digits_MLP/versions/3");
    assert_eq!(
        (status, &serde_json::from_str::<Value>(&document).unwrap()["versions"]),
        (200, &json!(["3"]))
    );
    assert_eq!(get("/v2/models/iris.v1/versions/1/ready").0, 200);
    assert_eq!(get("/v2/models/tokens").0, 404);
    let (status, answer) = server.post("/score/Digits_MLP", "", &sample("digits"));
    assert_eq!(status, 200, "{answer}");
    assert!(server.document["models"][0]["notes"].to_string().contains("not used: optimization"));
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("tokens is not served") && log.contains("backend `python`"), "{log}");
    let (code, _, errors) = output(&["serve", path]);
    assert!(code == 1 && errors.contains("is a repository of 3 models"), "{errors}");
}

#[test]
fn all_versions_that_the_policy_of_triton_allows_are_served_together() {
    let folder = tempfile::tempdir().unwrap();
    repository(folder.path());
    let config = folder.path().join("Digits_MLP/config.pbtxt");
    fs::write(&config, "version_policy: { all {} }").unwrap();
    place("iris", &folder.path().join("Digits_MLP/2/other.onnx"));
    let path = folder.path().to_str().unwrap();
    let server =
        Serving::start(&["--listen", "127.0.0.1:0", "--repository", path, "--model-control", "--no-auth"]);
    let get = |path: &str| {
        let (status, body) = Request::get(&format!("{}{path}", server.url())).send().unwrap();
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let uri = |nth: usize| server.document["models"][nth]["scoring_uri"].as_str().unwrap().to_owned();
    assert!(
        uri(0).ends_with("/v2/models/Digits_MLP/versions/1/infer") && uri(1).ends_with("/score/Digits_MLP")
    );
    let inputs = |path: &str| get(path).1["inputs"][0]["name"].clone();
    assert_eq!(get("/v2/models/Digits_MLP").1["versions"], json!(["1", "3"]));
    assert_eq!(inputs("/v2/models/Digits_MLP"), inputs("/v2/models/Digits_MLP/versions/3"));
    let (status, unknown) = get("/v2/models/Digits_MLP/versions/2");
    assert_eq!(status, 404);
    assert!(unknown["error"].as_str().unwrap().contains("has no version `2`; served: `1`, `3`"), "{unknown}");
    assert_eq!(server.post("/score/Digits_MLP", "", &sample("digits")).0, 200);
    let sample_of = |version| get(&format!("/v2/models/Digits_MLP/versions/{version}/stats")).1;
    let count = |version| sample_of(version)["model_stats"][0]["inference_stats"]["success"]["count"].clone();
    assert_eq!((count("1"), count("3")), (json!(0), json!(1)));
    assert_eq!(get("/v2/models/Digits_MLP/stats").1["model_stats"].as_array().unwrap().len(), 2);
    assert_eq!(get("/v1/models/Digits_MLP").1["model_version_status"].as_array().unwrap().len(), 2);
    // A version that is added is served once the model is loaded again.
    place("iris", &folder.path().join("Digits_MLP/4/model.onnx"));
    assert_eq!(server.post("/v2/repository/models/Digits_MLP/load", "", "").0, 200);
    assert_eq!(get("/v2/models/Digits_MLP").1["versions"], json!(["1", "3", "4"]));
    let index = server.post("/v2/repository/index", "", "").1;
    assert_eq!(index.matches("\"READY\"").count(), 4, "{index}");
    fs::write(&config, "version_policy: { specific { versions: [3] } }").unwrap();
    assert_eq!(server.post("/v2/repository/models/Digits_MLP/load", "", "").0, 200);
    assert_eq!(get("/v2/models/Digits_MLP").1["versions"], json!(["3"]));
    assert_eq!(server.post("/v2/repository/models/Digits_MLP/unload", "", "").0, 200);
    assert_eq!(get("/v2/models/Digits_MLP").0, 404);
}

#[test]
fn a_triton_repository_is_imported_with_its_versions_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    repository(folder.path());
    let workspace = Workspace::new();
    let path = folder.path().to_str().unwrap();
    for _ in ["new", "again"] {
        let imported = workspace.run(&["--output", "json", "import", "triton", path, "--no-auth"]);
        assert_eq!(imported.code, 1, "{imported:?}");
        assert!(imported.stderr.contains("1 of 3 models were not imported"), "{imported:?}");
        let document: Value = serde_json::from_str(&imported.stdout).unwrap();
        let names: Vec<_> = document["items"].as_array().unwrap().iter().map(|item| &item["model"]).collect();
        assert_eq!(names, ["Digits_MLP:2", "iris.v1:1"]);
        assert!(document["refused"][0]["message"].as_str().unwrap().contains("backend `python`"));
    }
    let service = workspace.json(&["services", "show", "Digits_MLP"]);
    assert_eq!(service["revisions"][0]["serving"], json!({ "workers": 2, "max_batch": 8 }), "{service}");
    let (status, answer) =
        Request::new(service["scoring_uri"].as_str().unwrap(), None, &sample("digits")).send().unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(workspace.json(&["models", "show", "Digits_MLP:1"])["version"], 1);
}

#[test]
fn an_mlflow_model_is_deployed_with_its_name_and_its_example() {
    let folder = tempfile::tempdir().unwrap();
    place("iris", &folder.path().join("model/model.onnx"));
    let file = |name: &str, text: &str| fs::write(folder.path().join("model").join(name), text).unwrap();
    file(
        "MLmodel",
        "artifact_path: Flowers\nflavors:\n  onnx: {data: model.onnx}\nsaved_input_example_info:\n  \
                     serving_input_path: example.json\n",
    );
    file("example.json", &sample("iris").replace("\"data\"", "\"inputs\""));
    let workspace = Workspace::new();
    let path = folder.path().join("model");
    let deployed = workspace.json(&["deploy", path.to_str().unwrap()]);
    assert_eq!(deployed["name"], "Flowers");
    assert!(deployed["answer"].is_object(), "{deployed}");
}

#[test]
fn an_archive_is_refused_with_the_command_that_unpacks_it() {
    let folder = tempfile::tempdir().unwrap();
    place("iris", &folder.path().join("code/iris.onnx"));
    let run = |line: &str| {
        let done = std::process::Command::new("sh").args(["-c", line]).current_dir(folder.path()).status();
        assert!(done.unwrap().success(), "{line}");
    };
    run("tar -czf model.tar.gz -C code iris.onnx && gzip -k code/iris.onnx && mv code/iris.onnx.gz .");
    for name in ["model.tar.gz", "iris.onnx.gz"] {
        let path = folder.path().join(name);
        let (code, _, errors) = output(&["inspect", path.to_str().unwrap()]);
        assert_eq!(code, 1, "{errors}");
        let (_, command) = errors.split_once('`').unwrap();
        run(command.split_once('`').unwrap().0);
    }
    for model in ["model", "iris.onnx"] {
        let path = folder.path().join(model);
        assert_eq!(output(&["inspect", path.to_str().unwrap()]).0, 0, "{model}");
    }
}
