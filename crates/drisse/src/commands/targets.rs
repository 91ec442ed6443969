//! `drisse targets`: lists, checks, attaches and detaches targets.

use crate::cli::{Output, TargetKind, Targets, TargetsCommand};
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use drisse_client::Client;
use drisse_core::{cores, size};
use drisse_wire::control::{Headroom, TargetInfo, TargetSpec};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

pub(crate) async fn run(workspace: &WorkspaceRef, arguments: &Targets, output: Output) -> Result<ExitCode> {
    let client = workspace.reach().await?;
    match &arguments.command {
        None => {
            let targets = client.targets().await?;
            printer::result(output, || json!(targets), || table(&targets));
        }
        Some(TargetsCommand::Show { target }) => {
            let target = named(&client, target).await?;
            printer::result(output, || json!(target), || text(&target));
        }
        Some(TargetsCommand::Check { target }) => {
            let target = named(&client, target).await?;
            if let Some(error) = target.error {
                return Err(error.into());
            }
            printer::result(output, || json!(target), || format!("target `{}` can be used\n", target.name));
        }
        Some(TargetsCommand::Attach { target, kind, socket, max_services }) => {
            let kind = match kind {
                TargetKind::Local => "local",
                TargetKind::Container => "container",
            };
            let socket = socket.as_deref().map(absolute).transpose()?;
            let spec = TargetSpec { kind: kind.to_owned(), socket, max_services: *max_services };
            client.attach(target, &spec).await?;
            let target = named(&client, target).await?;
            printer::result(output, || json!(target), || text(&target));
        }
        Some(TargetsCommand::Detach { target }) => {
            client.detach(target).await?;
            let document = || json!({ "name": target, "attached": false });
            printer::result(output, document, || format!("detached {target}\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn named(client: &Client, name: &str) -> Result<TargetInfo> {
    let targets = client.targets().await?;
    let names: Vec<_> = targets.iter().map(|target| format!("`{}`", target.name)).collect();
    targets.into_iter().find(|target| target.name == name).ok_or_else(|| {
        CliError::new(format!("target `{name}` not found"))
            .hint(format!("the targets are {}", names.join(", ")))
    })
}

/// Makes a socket's path absolute: the control plane runs in another folder.
fn absolute(socket: &Path) -> Result<String> {
    let socket = socket.to_str().ok_or_else(|| CliError::new("the socket's path is not UTF-8"))?;
    let socket = socket.strip_prefix("unix://").unwrap_or(socket);
    let path = std::path::absolute(socket).context("cannot find the current folder")?;
    Ok(path.display().to_string())
}

fn state(target: &TargetInfo) -> String {
    target.error.as_ref().map_or("ready".to_owned(), |error| error.message.clone())
}

/// Formats the number of services and its limit.
fn services(target: &TargetInfo) -> String {
    let most = target.max_services.map(|most| format!(" of {most}")).unwrap_or_default();
    format!("{}{most}", target.services)
}

/// Formats how much of a target's capacity its services have reserved.
fn reserved(room: &Headroom, show: impl Fn(u64) -> String) -> String {
    let total = room.total.map(|total| format!(" of {}", show(total))).unwrap_or_default();
    let unenforceable = room.unenforceable.as_ref().map(|why| format!("; limits cannot be enforced: {why}"));
    format!("{}{total} reserved{}", show(room.promised), unenforceable.unwrap_or_default())
}

fn table(targets: &[TargetInfo]) -> String {
    let row =
        |target: &TargetInfo| vec![target.name.clone(), target.kind.clone(), services(target), state(target)];
    printer::table(&["TARGET", "KIND", "SERVICES", "STATE"], targets.iter().map(row))
}

fn text(target: &TargetInfo) -> String {
    let socket = target.attached.as_ref().and_then(|spec| spec.socket.clone());
    let lines = [
        ("target", target.name.clone()),
        ("kind", target.kind.clone()),
        ("state", state(target)),
        ("hint", target.error.as_ref().and_then(|error| error.hint.clone()).unwrap_or_default()),
        ("socket", socket.unwrap_or_default()),
        ("services", services(target)),
        ("cpu", reserved(&target.cpu_millis, cores)),
        ("memory", reserved(&target.memory_bytes, size)),
    ];
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}
