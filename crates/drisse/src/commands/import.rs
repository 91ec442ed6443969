//! `drisse import`: registers and deploys the models of another server.

use super::deploy::request;
use super::models::open;
use super::upload::Given;
use crate::cli::{ImportTriton, Output, ServiceOptions};
use crate::connect::WorkspaceRef;
use crate::error::{CliError, INTERRUPTED, Result};
use crate::follow::{Left, follow};
use crate::printer;
use anyhow::Context;
use drisse_client::Client;
use drisse_core::ServiceName;
use drisse_registry::triton_repository;
use drisse_wire::control::{Operation, RegisterRequest, Service};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// Deploys the models of a Triton model repository. One that cannot be deployed is reported, and the others are deployed.
pub(crate) async fn triton(
    workspace: &WorkspaceRef,
    arguments: &ImportTriton,
    output: Output,
) -> Result<ExitCode> {
    let folder = &arguments.folder;
    let models = triton_repository(folder).with_context(|| format!("cannot import {}", folder.display()))?;
    let client = workspace.connect().await?;
    let (count, mut services, mut refused) = (models.len(), Vec::new(), Vec::new());
    for model in models {
        match import(workspace, &client, &model, arguments).await {
            Ok(service) => services.push(service),
            Err(error) if error.code == INTERRUPTED => return Err(error),
            Err(error) => {
                printer::note(&printer::failure_text(&error));
                refused.push(
                    json!({ "folder": model, "message": format!("{:#}", error.error), "hint": error.hint }),
                );
            }
        }
    }
    let row =
        |service: &Service| vec![service.name.clone(), service.model.clone(), service.scoring_uri.clone()];
    printer::result(
        output,
        || json!({ "items": services, "refused": refused }),
        || printer::table(&["NAME", "MODEL", "ENDPOINT"], services.iter().map(row)),
    );
    if refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    printer::note(&format!(
        "{} of {count} models were not imported, as said above; the same command goes on from here",
        refused.len()
    ));
    Ok(ExitCode::FAILURE)
}

/// Registers the versions of one model in their order, and deploys the one that its configuration chooses.
async fn import(
    workspace: &WorkspaceRef,
    client: &Client,
    folder: &Path,
    arguments: &ImportTriton,
) -> Result<Service> {
    let attempt = || format!("cannot import {}", folder.display());
    let source = open(folder, false).with_context(attempt)?;
    let name = ServiceName::of_stem(&source.name)
        .ok_or_else(|| CliError::new(format!("cannot derive a model name from `{}`", source.name)))?;
    for (version, file) in &source.configured.versions {
        let attempt = || format!("cannot import version {version} of {}", folder.display());
        let of_version = open(file, false).with_context(attempt)?;
        let given = Given::new(workspace, client, file, &of_version, None).await?;
        let request = RegisterRequest { name: Some(name.to_string()), ..given.registration() };
        let operation = client.register(&request).await?;
        let done = done(follow(workspace, client, &operation).await?)?;
        if done.result["version"] != *version {
            printer::note(&format!("version {version} is {name}:{} here", done.result["version"]));
        }
    }
    let options = ServiceOptions {
        replicas: arguments.replicas,
        no_auth: arguments.no_auth,
        ..ServiceOptions::default()
    };
    let given = Given::new(workspace, client, folder, &source, None).await?;
    let mut request = request(&options, Some(given.choice()), Some(&source))?;
    request.target.clone_from(&arguments.target);
    let operation = client.deploy(&request).await?;
    done(follow(workspace, client, &operation).await?)?;
    workspace.ask(client, async |client| client.service(&operation.subject).await).await
}

fn done(left: Left) -> Result<Box<Operation>> {
    match left {
        Left::Done(operation) => Ok(operation),
        Left::Detached(_) => {
            Err(CliError::new("interrupted: the models after this one are not imported").code(INTERRUPTED))
        }
    }
}
