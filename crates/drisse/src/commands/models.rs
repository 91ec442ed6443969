//! `drisse models`: registers, lists, tags, verifies and deletes models.

use super::upload::Given;
use super::{sign, transfer};
use crate::cli::{Models, ModelsCommand, Output, Page};
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::follow::{Left, follow};
use crate::{printer, units};
use anyhow::Context;
use drisse_client::Client;
use drisse_net::http::escaped;
use drisse_registry::{InspectError, ModelSource};
use drisse_wire::control::{Model, ModelChange, Operation, RegisterRequest, RepairRequest};
use serde_json::{Value, json};
use std::path::Path;
use std::process::ExitCode;

pub(crate) async fn run(workspace: &WorkspaceRef, arguments: &Models, output: Output) -> Result<ExitCode> {
    let Some(command) = &arguments.command else { return list(workspace, arguments, output).await };
    match command {
        ModelsCommand::Register { path, name, tags, properties, sample, follow_links } => {
            // A wrong file is reported without starting the control plane.
            let source =
                open(path, *follow_links).with_context(|| format!("cannot register {}", path.display()))?;
            let client = workspace.reach().await?;
            let given = Given::new(workspace, &client, path, &source, sample.as_deref()).await?;
            let request = RegisterRequest {
                name: name.clone(),
                follow_links: *follow_links,
                tags: (!tags.is_empty()).then(|| tags.iter().cloned().collect()),
                properties: (!properties.is_empty()).then(|| properties.iter().cloned().collect()),
                ..given.registration()
            };
            let operation = client.register(&request).await?;
            finish(workspace, &client, operation, output, named).await
        }
        ModelsCommand::Show { model } => {
            let client = workspace.reach().await?;
            let (name, version) = parse(model)?;
            let model = client.model(name, version).await?;
            printer::result(output, || json!(model), || text(&model));
            Ok(ExitCode::SUCCESS)
        }
        ModelsCommand::Tag { model, tags, remove, properties } => {
            let client = workspace.reach().await?;
            let (name, version) = parse(model)?;
            let change = ModelChange {
                tags: tags.iter().cloned().collect(),
                remove_tags: remove.clone(),
                properties: properties.iter().cloned().collect(),
            };
            let model = client.change_model(name, version, &change).await?;
            printer::result(output, || json!(model), || text(&model));
            Ok(ExitCode::SUCCESS)
        }
        ModelsCommand::Keygen { file } => sign::keygen(file, output),
        ModelsCommand::Sign { model, key } => sign::sign(workspace, model, key, output).await,
        ModelsCommand::Trust { keys, remove, none } => {
            sign::trust(workspace, keys, remove, *none, output).await
        }
        ModelsCommand::Verify { model, repair, from, key } => {
            let client = workspace.reach().await?;
            let signed = sign::verify(&client, model.as_deref(), key.as_deref()).await?;
            let operation = if *repair {
                let from = from.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?;
                client.repair(model.as_deref(), &RepairRequest { from }).await?
            } else {
                client.verify(model.as_deref()).await?
            };
            let text = |result: &Value| {
                let repaired = result["repaired"].as_array().map_or(0, Vec::len);
                let repaired = if repaired > 0 { format!(", {repaired} repaired") } else { String::new() };
                format!("{} models are intact{repaired}\n", result["models"])
            };
            let left = match follow(workspace, &client, &operation).await? {
                Left::Done(mut done) => {
                    done.result["signed"] = json!(signed);
                    Left::Done(done)
                }
                detached @ Left::Detached(_) => detached,
            };
            self::left(left, output, text)
        }
        ModelsCommand::Delete { model } => {
            let client = workspace.reach().await?;
            let (name, version) = parse(model)?;
            let operation = client.delete_model(name, version).await?;
            let text = |result: &Value| format!("deleted {}\n", result["deleted"].as_str().unwrap_or(model));
            finish(workspace, &client, operation, output, text).await
        }
        ModelsCommand::Push { model, to, registry } => {
            transfer::push(workspace, model, to, registry, output).await
        }
        ModelsCommand::Pull { from, name, registry } => {
            left(transfer::pull(workspace, from, name.as_deref(), registry).await?, output, named)
        }
        ModelsCommand::Prune => {
            let client = workspace.reach().await?;
            let operation = client.collect().await?;
            let text = |result: &Value| {
                let bytes = units::shown(result["bytes"].as_u64().unwrap_or(0));
                format!("removed {} blobs, {bytes}\n", result["blobs"])
            };
            finish(workspace, &client, operation, output, text).await
        }
    }
}

/// Formats the result of a registration.
fn named(result: &Value) -> String {
    let text = |key: &str| result[key].as_str().unwrap_or_default();
    format!("{}:{} {}\n", text("name"), result["version"], text("digest"))
}

async fn finish(
    workspace: &WorkspaceRef,
    client: &Client,
    operation: Operation,
    output: Output,
    text: impl FnOnce(&Value) -> String,
) -> Result<ExitCode> {
    left(follow(workspace, client, &operation).await?, output, text)
}

fn left(left: Left, output: Output, text: impl FnOnce(&Value) -> String) -> Result<ExitCode> {
    match left {
        Left::Done(done) => {
            printer::result(output, || done.result.clone(), || text(&done.result));
            Ok(ExitCode::SUCCESS)
        }
        Left::Detached(code) => Ok(code),
    }
}

async fn list(workspace: &WorkspaceRef, arguments: &Models, output: Output) -> Result<ExitCode> {
    let client = workspace.reach().await?;
    let query = query(&[
        ("name", arguments.name.as_deref()),
        ("tag", arguments.tag.as_deref()),
        ("property", arguments.property.as_deref()),
        ("framework", arguments.framework.as_deref()),
    ]);
    let page = client.models(&paged(query, &arguments.page)).await?;
    let row = |model: &Model| {
        let tags: Vec<_> = model.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            format!("{}:{}", model.name, model.version),
            units::shown(model.size),
            model.framework.clone().unwrap_or_default(),
            model.created_at.clone(),
            tags.join(","),
            model.used_by.join(","),
        ]
    };
    let heading = ["MODEL", "SIZE", "FRAMEWORK", "CREATED", "TAGS", "USED BY"];
    printer::result(output, || json!(page), || printer::table(&heading, page.items.iter().map(row)));
    note_more(&page.next, page.items.is_empty(), "models", output);
    Ok(ExitCode::SUCCESS)
}

/// Prints a note if the list is empty or has another page.
pub(crate) fn note_more(next: &Option<String>, empty: bool, what: &str, output: Output) {
    match next {
        _ if output == Output::Json => {}
        Some(next) => printer::note(&format!("there are more: continue with --after {next}")),
        None if empty => printer::note(&format!("no {what} found")),
        None => {}
    }
}

fn text(model: &Model) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| printer::line(&mut out, 10, name, value);
    let pairs = |pairs: &std::collections::BTreeMap<String, String>| {
        pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
    };
    line("model", &format!("{}:{}", model.name, model.version));
    line("digest", &model.digest);
    line("manifest", &model.manifest_digest);
    line("size", &units::shown(model.size));
    line("framework", model.framework.as_deref().unwrap_or_default());
    line("created", &model.created_at);
    line("tags", &pairs(&model.tags));
    line("properties", &pairs(&model.properties));
    line("used by", &model.used_by.join(", "));
    let signature = drisse_registry::signature_of(&model.signature).unwrap_or_default();
    for (what, ports) in [("input", &signature.inputs), ("output", &signature.outputs)] {
        for port in ports {
            line(what, &format!("{} {}", port.name, port.kind));
        }
    }
    out
}

/// Splits `NAME` or `NAME:VERSION`.
pub(crate) fn parse(text: &str) -> Result<(&str, Option<u64>)> {
    let Some((name, version)) = text.split_once(':') else { return checked(text, None, text) };
    match version.parse() {
        Ok(version) if version > 0 => checked(name, Some(version), text),
        _ => Err(CliError::new(format!("`{version}` is not a version"))
            .hint("a version is a number from 1, as in `name:3`")),
    }
}

fn checked<'a>(name: &'a str, version: Option<u64>, text: &str) -> Result<(&'a str, Option<u64>)> {
    match name.parse::<drisse_core::ModelName>() {
        Ok(_) => Ok((name, version)),
        Err(error) => Err(CliError::new(format!("model `{text}` not found: {error}"))
            .hint("a path has a `/` or an extension")),
    }
}

/// Opens a model before the control plane is started for it. Names the files that links lead to outside of the model's
/// folder, and what has no effect of the configuration beside it.
pub(super) fn open(path: &Path, follow_links: bool) -> Result<ModelSource, InspectError> {
    let source = ModelSource::open_following(path, follow_links)?;
    for (link, target) in &source.outside {
        printer::note(&format!("follows the link {} to {}", link.display(), target.display()));
    }
    for note in &source.configured.notes {
        printer::note(&format!("note: {}", printer::plain(note)));
    }
    Ok(source)
}

pub(crate) fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).context("cannot find the current folder")?;
    absolute.into_os_string().into_string().map_err(|_| {
        CliError::new(format!("the path {} is not UTF-8", path.display()))
            .hint("rename the file or its folder")
    })
}

/// Builds a query string from the pairs that have a value.
pub(crate) fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let given = pairs.iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped((*value)?))));
    given.collect::<Vec<_>>().join("&")
}

pub(crate) fn paged(query: String, page: &Page) -> String {
    let limit = page.limit.map(|limit| limit.to_string());
    let more = self::query(&[("limit", limit.as_deref()), ("after", page.after.as_deref())]);
    [query, more].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("&")
}
