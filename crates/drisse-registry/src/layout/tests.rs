//! Folders as Triton, MLflow 2 and 3, and MLServer write them.

use crate::{InspectError, ModelSource, triton_repository};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Creates a folder with these files: a path and a text, or a model if the text is empty.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text {
            &"" => drop(fs::copy(model(), path).unwrap()),
            text => fs::write(path, text).unwrap(),
        }
    }
    folder
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/wine/wine.onnx")
}

fn open(folder: &TempDir, path: &str) -> ModelSource {
    ModelSource::open(&folder.path().join(path)).unwrap()
}

/// Returns the error and its hint.
fn refused(folder: &TempDir, path: &str) -> (String, String) {
    let error = ModelSource::open(&folder.path().join(path)).unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn a_triton_model_is_its_highest_version_that_the_policy_allows() {
    for (policy, version) in [
        ("", "10"),
        ("version_policy: { latest { num_versions: 2 } }", "10"),
        ("version_policy { all: {} }", "10"),
        ("version_policy: { specific: { versions: [1, 2] } }", "2"),
    ] {
        let config = format!("name: \"dense_Net\"\nplatform: \"onnxruntime_onnx\"\n{policy}");
        let there = folder(&[
            ("net/config.pbtxt", &config),
            ("net/1/model.onnx", ""),
            ("net/2/model.onnx", ""),
            ("net/10/model.onnx", ""),
            ("net/03/model.onnx", ""),
            ("net/x/readme", "no version"),
        ]);
        let source = open(&there, "net");
        assert_eq!((&*source.name, source.configured.version.as_deref()), ("dense_Net", Some(version)));
        assert!(source.inspection.path.ends_with(format!("{version}/model.onnx")));
        let versions: Vec<_> = source.configured.versions.iter().map(|(version, _)| *version).collect();
        assert_eq!(versions, [1, 2, 10]);
        assert_eq!(source.configured.notes.len(), 1, "{:?}", source.configured.notes);
    }
}

#[test]
fn a_triton_configuration_says_how_a_model_is_run_and_what_has_no_effect_is_noted() {
    let config = r#"
        backend: "onnxruntime" max_batch_size: 16 default_model_filename: "net.onnx"
        input [ { name: "X" data_type: TYPE_FP32 dims: [ 13 ] reshape { shape: [ 13 ] } } ]
        instance_group [ { count: 2 kind: KIND_CPU }, { count: 4 kind: KIND_GPU gpus: [ 0 ] } ]
        sequence_batching { } optimization { } parameters { key: "a" value { string_value: "b" } }
        parameters { key: "c" value { string_value: "d" } }
    "#;
    let there = folder(&[("net/config.pbtxt", config), ("net/1/net.onnx", "")]);
    let source = open(&there, "net");
    let configured = &source.configured;
    assert_eq!((&*source.name, configured.workers, configured.max_batch), ("net", Some(2), Some(16)));
    let [gpu, sequences, unused] = &*configured.notes else { panic!("{:?}", configured.notes) };
    assert!(gpu.contains("KIND_GPU") && sequences.contains("sequence_id"), "{gpu} {sequences}");
    assert_eq!(unused, "config.pbtxt: not used: optimization, parameters, input.reshape");
}

#[test]
fn a_triton_folder_needs_no_configuration_and_its_model_may_be_a_folder() {
    let there = folder(&[("net/1/model.onnx/model.onnx", ""), ("net/1/model.onnx/weights.bin", "x")]);
    let source = open(&there, "net");
    assert_eq!((&*source.name, source.configured.version.as_deref()), ("net", Some("1")));
    assert!(source.configured.notes.is_empty());
    // A folder with a model of its own is that model.
    let there = folder(&[("wine.onnx", ""), ("1/model.onnx", "")]);
    assert_eq!(open(&there, ".").name, "wine");
}

#[test]
fn models_of_other_backends_and_broken_configurations_are_refused_by_name() {
    for (files, why, hint) in [
        (
            &[("m/config.pbtxt", "platform: \"tensorrt_plan\""), ("m/1/model.plan", "x")][..],
            "backend `tensorrt_plan`",
            "ONNX",
        ),
        (&[("m/config.pbtxt", "backend: \"vllm\""), ("m/1/model.json", "x")], "backend `vllm`", "ONNX"),
        (&[("m/config.pbtxt", "platform: \"ensemble\"")], "backend `ensemble`", "deploy its models"),
        (&[("m/1/model.py", "import x")], "it is a model of Triton's backend `python`", "your own program"),
        (&[("m/1/model.savedmodel/saved_model.pb", "x")], "backend `tensorflow`", "tf2onnx"),
        (
            &[("m/config.pbtxt", "backend: onnx {"), ("m/1/model.onnx", "")],
            "config.pbtxt: line 1",
            "correct it",
        ),
        (&[("m/config.pbtxt", "backend: \"onnxruntime\"")], "there is no version beside it", "correct it"),
        (
            &[("m/config.pbtxt", "version_policy { specific { versions: 7 } }"), ("m/1/model.onnx", "")],
            "allows none of the versions",
            "correct it",
        ),
        (
            &[("m/config.pbtxt", "default_model_filename: \"../../x\""), ("m/1/model.onnx", "")],
            "`../../x`, which is not in its folder",
            "correct it",
        ),
    ] {
        let (error, says) = refused(&folder(files), "m");
        assert!(error.contains(why) && says.contains(hint), "{error}\n{says}");
    }
}

#[test]
fn a_repository_is_refused_as_one_model_and_lists_its_models() {
    let there =
        folder(&[("b/1/model.onnx", ""), ("a/config.pbtxt", "backend: \"python\""), ("docs/readme", "x")]);
    let error = ModelSource::open(there.path()).unwrap_err();
    assert!(matches!(error, InspectError::Repository { models: 2, .. }), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("drisse import triton") && hint.contains("drisse serve --repository"), "{hint}");
    assert_eq!(triton_repository(there.path()).unwrap(), ["a", "b"].map(|name| there.path().join(name)));
    let none = folder(&[("x/y", "z")]);
    assert!(triton_repository(none.path()).unwrap_err().to_string().contains("NAME/1/model.onnx"));
    assert!(refused(&none, ".").0.contains("holds no .onnx file"));
}

/// An `MLmodel` as MLflow writes it.
const MLMODEL: &str = "
artifact_path: PATH
flavors:
  onnx:
    code: null
    data: net.onnx
    providers:
    - CPUExecutionProvider
  python_function:
    data: net.onnx
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
model_uuid: 35c1daa640fe49a08b45812352415803
saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: ndarray
";

#[test]
fn an_mlflow_model_has_its_name_and_its_example() {
    let files = |folder: &'static str, path: &str| {
        let text: &'static str = Box::leak(MLMODEL.replace("PATH", path).into_boxed_str());
        let name = |file: &str| -> &'static str { Box::leak(format!("{folder}/{file}").into_boxed_str()) };
        [
            (name("MLmodel"), text),
            (name("net.onnx"), ""),
            (name("serving_input_example.json"), "{\"inputs\": []}"),
        ]
    };
    let run = "0/644a8c381549465a8106e94d5b1a58fa/artifacts";
    let logged = "0/models/m-c421b7707f984d98963d09be9b5f7898/artifacts";
    for (place, path, name) in [
        ("wine", "model", "wine"),
        ("model", "churn", "churn"),
        (run, "model", "model-35c1daa6"),
        (logged, "file:///mlruns/0/models/m-c4/artifacts", "wine_quality"),
    ] {
        let mut files = files(place, path).to_vec();
        files.push((
            "0/models/m-c421b7707f984d98963d09be9b5f7898/meta.yaml",
            "name: wine_quality\nstatus: 2\n",
        ));
        let there = folder(&files);
        let source = open(&there, place);
        assert_eq!(source.name, name);
        assert!(source.sample.unwrap().ends_with("serving_input_example.json"));
        assert!(source.inspection.path.ends_with("net.onnx"));
    }
}

#[test]
fn mlflow_models_of_other_flavors_and_broken_files_are_refused() {
    let sklearn = "flavors:\n  python_function: {}\n  sklearn:\n    pickled_model: model.pkl\n";
    let laughs = format!("a: &a [x,x,x,x,x,x,x,x,x]\n{}flavors: *h\n", ('b'..='h').map(|name| {
        let before = char::from(name as u8 - 1);
        format!("{name}: &{name} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n")
    }).collect::<String>());
    for (text, why, hint) in [
        (sklearn, "the flavor sklearn", "skl2onnx.to_onnx(mlflow.sklearn.load_model('"),
        ("flavors:\n  python_function: {}\n", "the flavor python_function", "mlflow.onnx.save_model"),
        ("flavors: [", "MLmodel: ", "correct it"),
        ("x: 1", "MLmodel: ", "correct it"),
        (&*laughs, "MLmodel: ", "correct it"),
        (
            "flavors:\n  onnx:\n    data: /etc/passwd\n",
            "`/etc/passwd`, which is not in its folder",
            "correct it",
        ),
    ] {
        let (error, says) = refused(&folder(&[("m/MLmodel", text)]), "m");
        assert!(error.contains(why) && says.contains(hint), "{error}\n{says}");
    }
}

#[test]
fn an_mlserver_model_has_its_settings() {
    let settings = r#"{"name": "wine.Q", "implementation": "x.Onnx", "max_batch_size": 8,
        "parameters": {"uri": "./net.onnx", "version": "v2", "extra": {}}}"#;
    let there = folder(&[("model-settings.json", settings), ("net.onnx", ""), ("other.onnx", "")]);
    let source = open(&there, ".");
    let configured = (source.configured.version.as_deref(), source.configured.max_batch);
    assert_eq!((&*source.name, configured), ("wine.Q", (Some("v2"), Some(8))));
    let there = folder(&[
        ("model-settings.json", r#"{"implementation": "mlserver_sklearn.SKLearnModel"}"#),
        ("model.joblib", "x"),
    ]);
    let (error, hint) = refused(&there, ".");
    assert!(error.contains("mlserver_sklearn.SKLearnModel") && hint.contains("convert"), "{error} {hint}");
    let there = folder(&[("model-settings.json", r#"{"parameters": {"uri": "../x.onnx"}}"#)]);
    assert!(refused(&there, ".").0.contains("`../x.onnx`, which is not in its folder"));
}

#[test]
fn a_configuration_that_is_a_link_to_elsewhere_is_not_read() {
    let secret = folder(&[("secret", "name: \"x\"")]);
    for name in ["config.pbtxt", "MLmodel", "model-settings.json"] {
        let there = folder(&[("1/model.onnx", "")]);
        std::os::unix::fs::symlink(secret.path().join("secret"), there.path().join(name)).unwrap();
        let error = ModelSource::open(there.path()).unwrap_err();
        assert!(matches!(error, InspectError::Link { .. }), "{name}: {error}");
    }
}
