//! MLflow's `MLmodel`.
//!
//! Source: <https://mlflow.org/docs/latest/ml/model/#storage-format>.

use super::{Layout, beside, configuration, invalid, telling};
use crate::InspectError;
use crate::links::Links;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct MlModel {
    flavors: BTreeMap<String, Value>,
    artifact_path: Option<String>,
    model_uuid: Option<String>,
    saved_input_example_info: Option<Example>,
}

#[derive(Deserialize)]
struct Example {
    /// The example as a request, since MLflow 2.16. The other file has the bare table or array.
    serving_input_path: Option<String>,
}

/// The file beside the folder of a logged model's files, since MLflow 3.
#[derive(Deserialize)]
struct LoggedModel {
    name: String,
}

pub(super) fn layout(folder: &Path, links: &Links) -> Result<Option<Layout>, InspectError> {
    let path = folder.join("MLmodel");
    let Some(text) = configuration(&path, links)? else { return Ok(None) };
    let model: MlModel = yaml(&text).map_err(|why| invalid(&path, why))?;
    let Some(onnx) = model.flavors.get("onnx") else { return Err(other_flavor(&path, &model)) };
    let file = beside(folder, &path, onnx["data"].as_str().unwrap_or("model.onnx"))?;
    let mut layout = Layout::new(file);
    layout.name = name(folder, &model);
    let example = model.saved_input_example_info.and_then(|example| example.serving_input_path);
    let example = example.map(|example| beside(folder, &path, &example)).transpose()?;
    layout.sample = example.filter(|example| example.is_file());
    Ok(Some(layout))
}

fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let error = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error.to_string(),
    };
    Err(error.lines().next().unwrap_or_default().to_owned())
}

/// Returns the name of the folder, or that under which the model was logged. Where neither says anything, it has the
/// model's id in it, so that two models do not meet.
fn name(folder: &Path, model: &MlModel) -> Option<String> {
    let folder = std::path::absolute(folder).ok()?;
    let own = folder.file_name().and_then(|name| name.to_str()).and_then(telling);
    let logged = || {
        let beside = folder.parent()?;
        let text = configuration(&beside.join("meta.yaml"), &Links::of(beside, false).ok()?).ok()??;
        Some(yaml::<LoggedModel>(&text).ok()?.name)
    };
    let id = || Some(format!("model-{:.8}", model.model_uuid.as_deref()?.trim_start_matches("m-")));
    own.or(model.artifact_path.as_deref().and_then(telling))
        .map(str::to_owned)
        .or_else(|| logged().filter(|name| telling(name).is_some()))
        .or_else(id)
}

/// Returns the error of a model that MLflow has in another format.
fn other_flavor(path: &Path, model: &MlModel) -> InspectError {
    let flavors: Vec<_> =
        model.flavors.keys().map(String::as_str).filter(|name| *name != "python_function").collect();
    let folder = path.parent().unwrap_or(Path::new("")).display().to_string();
    let convert = match flavors.first() {
        Some(&"sklearn") => {
            "skl2onnx.to_onnx(mlflow.sklearn.load_model(FOLDER), X[:1], options={'zipmap': False})"
        }
        Some(&"xgboost") => "onnxmltools.convert_xgboost(mlflow.xgboost.load_model(FOLDER), initial_types=…)",
        Some(&"lightgbm") => {
            "onnxmltools.convert_lightgbm(mlflow.lightgbm.load_model(FOLDER), initial_types=…)"
        }
        Some(&"pytorch") => {
            "torch.onnx.export(mlflow.pytorch.load_model(FOLDER), (example_input,), dynamo=True)"
        }
        Some(&"tensorflow" | &"keras") => {
            "tf2onnx.convert.from_keras(mlflow.tensorflow.load_model(FOLDER))[0]"
        }
        _ => "the converter of its framework",
    };
    let kinds = if flavors.is_empty() { "python_function".to_owned() } else { flavors.join(", ") };
    InspectError::Configuration {
        path: path.to_owned(),
        why: format!("it is a model of the flavor {kinds:.200}, and Drisse serves the flavor onnx"),
        hint: format!(
            "convert it and save it again: `mlflow.onnx.save_model({}, 'converted')`",
            convert.replace("FOLDER", &format!("'{folder}'"))
        ),
    }
}
