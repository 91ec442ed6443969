//! Triton's model repositories: `NAME/1/model.onnx`, and `NAME/config.pbtxt` beside the versions.
//!
//! Sources: <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html>,
//! <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html>.

use super::textproto::Message;
use super::{Configured, Layout, beside, configuration, invalid};
use crate::InspectError;
use crate::links::Links;
use drisse_core::Serving;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.pbtxt";

/// The fields that are followed, or that say of the model what the model itself says.
const FOLLOWED: [&str; 12] = [
    "name",
    "platform",
    "backend",
    "runtime",
    "max_batch_size",
    "input",
    "output",
    "instance_group",
    "version_policy",
    "default_model_filename",
    "dynamic_batching",
    "model_transaction_policy",
];

/// The model files of other backends, with the backend and the way to ONNX.
const OTHERS: [(&str, &str, &str); 7] = [
    ("model.plan", "tensorrt", "serve the ONNX model that the engine was built from"),
    (
        "model.pt",
        "pytorch",
        "export it where the model's code is: `torch.onnx.export(model, (example_input,), 'model.onnx', dynamo=True)`",
    ),
    (
        "model.savedmodel",
        "tensorflow",
        "pip install tf2onnx && python -m tf2onnx.convert --saved-model model.savedmodel --output model.onnx",
    ),
    ("model.graphdef", "tensorflow", "convert the SavedModel it comes from with tf2onnx"),
    ("model.py", "python", "call it from your own program, and deploy the models that it runs"),
    ("model.xml", "openvino", "serve the ONNX model that it was converted from"),
    ("", "ensemble", "deploy its models, and call them one after the other"),
];

/// Returns the folders of models in a repository, by name.
///
/// # Errors
/// Returns [`InspectError::Io`] if the folder cannot be read, or [`InspectError::Folder`] if there are none.
pub fn triton_repository(folder: &Path) -> Result<Vec<PathBuf>, InspectError> {
    let models = models_in(folder)?;
    if models.is_empty() {
        let what = "holds no folders of models, as `NAME/1/model.onnx` is one".to_owned();
        return Err(InspectError::Folder { path: folder.to_owned(), what });
    }
    Ok(models)
}

/// Returns an error if a folder without a model is a repository.
pub(crate) fn check_no_repository(folder: &Path) -> Result<(), InspectError> {
    let models = models_in(folder)?;
    match models.first() {
        None => Ok(()),
        Some(first) => Err(InspectError::Repository {
            path: folder.to_owned(),
            models: models.len(),
            first: first.clone(),
        }),
    }
}

fn models_in(folder: &Path) -> Result<Vec<PathBuf>, InspectError> {
    let is_model = |folder: &PathBuf| {
        folder.join(CONFIG).is_file() || versions_in(folder).is_ok_and(|versions| !versions.is_empty())
    };
    let mut models: Vec<_> = folders_in(folder)?.into_iter().filter(is_model).collect();
    models.sort();
    Ok(models)
}

fn folders_in(folder: &Path) -> Result<Vec<PathBuf>, InspectError> {
    let io = |source| InspectError::Io { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?;
    let paths =
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(io)).collect::<Result<Vec<_>, _>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// Returns the versions of a model, from the lowest to the highest: folders named by a number that does not start with a
/// zero, and that have something in them.
fn versions_in(folder: &Path) -> Result<Vec<(u64, PathBuf)>, InspectError> {
    let version = |path: PathBuf| {
        let name = path.file_name()?.to_str()?;
        let number = name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))?;
        let is_empty = path.read_dir().ok()?.next().is_none();
        (!name.starts_with('0') && !is_empty).then_some((number, path))
    };
    let mut versions: Vec<_> = folders_in(folder)?.into_iter().filter_map(version).collect();
    versions.sort();
    Ok(versions)
}

pub(super) fn layout(
    folder: &Path,
    links: &Links,
    wanted: Option<u64>,
) -> Result<Option<Layout>, InspectError> {
    let path = folder.join(CONFIG);
    let text = configuration(&path, links)?;
    let versions = versions_in(folder)?;
    if text.is_none() && (versions.is_empty() || has_models(folder)?) {
        return Ok(None);
    }
    let config = Message::parse(text.as_deref().unwrap_or_default()).map_err(|why| invalid(&path, why))?;
    check_backend(&path, &config, folder, &versions)?;
    let versions = with_file(versions, &path, &config)?;
    let allowed = allowed(&config, &versions);
    let chosen = allowed.iter().rfind(|(version, _)| wanted.is_none_or(|wanted| wanted == *version));
    let Some((version, file)) = chosen.cloned() else {
        let why = match versions.is_empty() {
            true => "there is no version beside it, as `1/model.onnx` is one".to_owned(),
            false => match wanted {
                Some(version) => format!("its version_policy does not allow version {version}"),
                None => "its version_policy allows none of the versions beside it".to_owned(),
            },
        };
        return Err(invalid(&path, why));
    };
    let mut layout = Layout::new(file);
    let given = config.text("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let folder = std::path::absolute(folder).ok();
    layout.name = given.or_else(|| Some(folder?.file_name()?.to_str()?.to_owned()));
    layout.configured = configured(&config);
    layout.configured.version = Some(version.to_string());
    layout.configured.notes = notes(&config);
    if wanted.is_none() {
        layout.configured.notes.splice(..0, version_note(versions.len(), &allowed));
    }
    layout.configured.allowed = allowed.iter().map(|(version, _)| *version).collect();
    layout.configured.versions = versions;
    Ok(Some(layout))
}

/// Returns the model files of the versions that have one; all, if none has one.
fn with_file(
    versions: Vec<(u64, PathBuf)>,
    configuration: &Path,
    config: &Message<'_>,
) -> Result<Vec<(u64, PathBuf)>, InspectError> {
    let named = config.text("default_model_filename").filter(|name| !name.is_empty()).unwrap_or("model.onnx");
    let file = |(version, folder): (u64, PathBuf)| {
        let file = beside(&folder, configuration, named)?;
        // A model with external data can be a folder.
        Ok((version, if file.is_dir() { file.join("model.onnx") } else { file }))
    };
    let files = versions.into_iter().map(file).collect::<Result<Vec<_>, _>>()?;
    let there: Vec<_> = files.iter().filter(|(_, file)| file.exists()).cloned().collect();
    Ok(if there.is_empty() { files } else { there })
}

/// Returns whether a folder has `.onnx` files of its own: its versions are then beside the point.
fn has_models(folder: &Path) -> Result<bool, InspectError> {
    Ok(!crate::source::models_in(folder)?.is_empty())
}

/// Returns the versions that the policy allows, from the lowest to the highest.
fn allowed(config: &Message<'_>, versions: &[(u64, PathBuf)]) -> Vec<(u64, PathBuf)> {
    let all = versions.iter().cloned();
    let policy = config.messages("version_policy").last();
    let within = |name| policy.and_then(|policy| policy.messages(name).last());
    if within("all").is_some() {
        return all.collect();
    }
    if let Some(specific) = within("specific") {
        let wanted: Vec<u64> =
            specific.texts("versions").filter_map(|version| version.parse().ok()).collect();
        return all.filter(|(version, _)| wanted.contains(version)).collect();
    }
    let latest = within("latest").and_then(|latest| latest.text("num_versions")?.parse().ok());
    all.skip(versions.len().saturating_sub(latest.unwrap_or(1).max(1))).collect()
}

/// Refuses the models of other backends.
fn check_backend(
    path: &Path,
    config: &Message<'_>,
    folder: &Path,
    versions: &[(u64, PathBuf)],
) -> Result<(), InspectError> {
    let given =
        [config.text("backend"), config.text("platform")].into_iter().flatten().find(|name| !name.is_empty());
    if given.is_some_and(|name| ["onnxruntime", "onnxruntime_onnx"].contains(&name)) {
        return Ok(());
    }
    let other = match given {
        Some(name) => OTHERS.iter().find(|(_, backend, _)| name.starts_with(backend)),
        None => OTHERS.iter().find(|(file, ..)| {
            !file.is_empty() && versions.iter().any(|(_, version)| version.join(file).exists())
        }),
    };
    let (backend, hint) = match (given, other) {
        (None, None) => return Ok(()),
        (given, Some((_, backend, hint))) => (given.unwrap_or(backend), *hint),
        (Some(given), None) => (given, "serve the ONNX model that it was made from"),
    };
    Err(InspectError::Configuration {
        path: if path.exists() { path } else { folder }.to_owned(),
        why: format!("it is a model of Triton's backend `{backend:.100}`, and Drisse runs ONNX models"),
        hint: hint.to_owned(),
    })
}

/// Returns how the model is run.
fn configured(config: &Message<'_>) -> Configured {
    let number = |text: &str| text.parse::<usize>().ok().filter(|&number| number > 0);
    let groups = config.messages("instance_group").filter(|group| group.text("kind") != Some("KIND_GPU"));
    let counts = groups.filter_map(|group| number(group.text("count")?));
    let workers = counts.fold(0, usize::saturating_add);
    let most = Serving::MAX as usize;
    Configured {
        workers: Some(workers.min(most)).filter(|&workers| workers > 0),
        max_batch: config.text("max_batch_size").and_then(number).map(|rows| rows.min(most)),
        ..Configured::default()
    }
}

/// Says which version is used, if there are several.
fn version_note(count: usize, allowed: &[(u64, PathBuf)]) -> Option<String> {
    let names: Vec<_> = allowed.iter().map(|(version, _)| version.to_string()).collect();
    let last = names.last()?;
    match names.len() {
        1 if count == 1 => None,
        1 => Some(format!("version {last} of {count} versions is used")),
        _ => Some(format!("version {last} is used, of the allowed versions {}", names.join(", "))),
    }
}

/// Says what of the configuration is not followed.
fn notes(config: &Message<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if config.messages("instance_group").any(|group| group.text("kind") == Some("KIND_GPU")) {
        notes.push(format!("{CONFIG}: instances of KIND_GPU run on the CPU"));
    }
    if config.messages("sequence_batching").next().is_some() {
        notes.push(format!(
            "{CONFIG}: requests with a sequence_id are refused, because no state is kept between requests"
        ));
    }
    let mut unused: Vec<String> = Vec::new();
    let own = config.names().filter(|name| !FOLLOWED.contains(name) && *name != "sequence_batching");
    let tensors = ["input", "output"].into_iter().flat_map(|kind| {
        let inside = config.messages(kind).flat_map(Message::names);
        inside
            .filter(|name| !["name", "data_type", "dims", "format", "optional"].contains(name))
            .map(move |name| format!("{kind}.{name}"))
    });
    for name in own.map(str::to_owned).chain(tensors) {
        if !unused.contains(&name) {
            unused.push(name);
        }
    }
    if !unused.is_empty() {
        unused.truncate(20);
        notes.push(format!("{CONFIG}: not used: {}", unused.join(", ")));
    }
    notes
}
