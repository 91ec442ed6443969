//! `drisse services` and `drisse delete`.

use super::models::{paged, query};
use crate::cli::{Delete, Output, Services, ServicesCommand};
use crate::connect::WorkspaceRef;
use crate::error::Result;
use crate::follow::{Left, follow};
use crate::printer;
use drisse_core::{cores, size};
use drisse_wire::control::{Resources, RestartPolicy, Service, ServingOptions};
use serde_json::json;
use std::fmt::Write;
use std::process::ExitCode;

pub(crate) async fn run(workspace: &WorkspaceRef, arguments: &Services, output: Output) -> Result<ExitCode> {
    let client = workspace.reach().await?;
    if let Some(ServicesCommand::Show { service }) = &arguments.command {
        let service = client.service(service).await?;
        printer::result(output, || json!(service), || text(&service));
        return Ok(ExitCode::SUCCESS);
    }
    let query = query(&[
        ("target", arguments.target.as_deref()),
        ("state", arguments.state.as_deref()),
        ("model", arguments.model.as_deref()),
        ("tag", arguments.tag.as_deref()),
    ]);
    let page = client.services(&paged(query, &arguments.page)).await?;
    let row = |service: &Service| {
        vec![
            service.name.clone(),
            service.state.to_string(),
            service.model.clone(),
            service.revision.to_string(),
            format!("{}/{}", service.ready, service.replicas),
            service.target.clone(),
            service.scoring_uri.clone(),
        ]
    };
    let heading = ["SERVICE", "STATE", "MODEL", "REVISION", "READY", "TARGET", "ENDPOINT"];
    let text = || printer::table(&heading, page.items.iter().map(row));
    printer::result(output, || json!(page), text);
    super::models::note_more(&page.next, page.items.is_empty(), "services", output);
    Ok(ExitCode::SUCCESS)
}

fn text(service: &Service) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| printer::line(&mut out, 10, name, value);
    line("service", &service.name);
    line("state", &format!("{} ({} of {} replicas ready)", service.state, service.ready, service.replicas));
    if let Some(error) = &service.error {
        line("error", &error.message);
        error.causes.iter().for_each(|cause| line("because", cause));
        line("hint", error.hint.as_deref().unwrap_or_default());
    }
    line("model", &format!("{} ({})", service.model, service.digest));
    line("target", &service.target);
    line("endpoint", &service.scoring_uri);
    line("openapi", &service.swagger_uri);
    line("aliases", &service.aliases.join(", "));
    line("keys", if service.auth { "required" } else { "not required" });
    let tags: Vec<_> = service.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    line("tags", &tags.join(", "));
    line("origins", &service.cors_origins.join(", "));
    line("access log", if service.access_log { "on" } else { "" });
    line("created", &service.created_at);
    line("updated", &service.updated_at);
    let revision = |revision: &drisse_wire::control::Revision| {
        let shares = service.revisions.iter().filter_map(|revision| revision.weight);
        let wanted = match (revision.weight, shares.sum::<u32>()) {
            (Some(weight), all) if weight < all => {
                format!("wanted, {} % of requests", (100 * weight + all / 2) / all)
            }
            (Some(_), _) => "wanted".to_owned(),
            _ => String::new(),
        };
        vec![
            revision.revision.to_string(),
            revision.model.clone(),
            match revision.max_wait_auto {
                true => "auto".to_owned(),
                false => format!("{} ms", revision.max_wait_ms),
            },
            format!("{} ms", revision.scoring_timeout_ms),
            runs(&revision.serving),
            limits(&revision.resources),
            revision.created_at.clone(),
            wanted.to_owned(),
        ]
    };
    let heading = ["REVISION", "MODEL", "MAX WAIT", "TIMEOUT", "RUNS", "LIMITS", "CREATED", ""];
    let _ = write!(out, "\n{}", printer::table(&heading, service.revisions.iter().map(revision)));
    if !service.instances.is_empty() {
        let instance = |instance: &drisse_wire::control::Instance| {
            let used = if instance.in_use { "yes" } else { "no" };
            vec![
                instance.id.clone(),
                instance.revision.to_string(),
                instance.state.clone(),
                used.to_owned(),
                instance.detail.clone(),
            ]
        };
        let heading = ["REPLICA", "REVISION", "STATE", "IN USE", ""];
        let _ = write!(out, "\n{}", printer::table(&heading, service.instances.iter().map(instance)));
    }
    out
}

pub(crate) async fn delete(workspace: &WorkspaceRef, arguments: &Delete, output: Output) -> Result<ExitCode> {
    let client = workspace.reach().await?;
    let name = &arguments.service;
    let operation = client.delete(name, arguments.force).await?;
    if !arguments.no_wait
        && let Left::Detached(code) = follow(workspace, &client, &operation).await?
    {
        return Ok(code);
    }
    let id = operation.id;
    let deleted = !arguments.no_wait;
    let text = || if deleted { format!("deleted {name}\n") } else { format!("operation {id} has started\n") };
    printer::result(output, || json!({ "name": name, "operation": id, "deleted": deleted }), text);
    Ok(ExitCode::SUCCESS)
}

/// Formats the limits, restart policy and variables of a revision's replicas that were set.
fn limits(resources: &Resources) -> String {
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>().join(" ");
    let restart = resources.restart.map(|policy| match policy {
        RestartPolicy::Always => "restarted always",
        RestartPolicy::OnFailure => "restarted on failure",
        RestartPolicy::Never => "never restarted",
    });
    let parts = [
        resources.cpu_millis.map(|cpu| cores(cpu.into())),
        resources.memory_bytes.map(size),
        restart.map(str::to_owned),
        resources.env.as_ref().map(|env| names(env.keys().collect())),
        resources.secret_env.as_ref().map(|env| format!("secret {}", names(env.0.keys().collect()))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// Formats the options that were set for how a revision runs its model.
fn runs(serving: &ServingOptions) -> String {
    let number = |number: Option<u32>, what: &str| number.map(|number| format!("{what} {number}"));
    let names = serving.triton_metrics.map(|_| "triton-metrics".to_owned());
    let parts = [
        number(serving.threads, "threads"),
        number(serving.workers, "workers"),
        number(serving.max_batch, "max-batch"),
        names,
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "auto".to_owned() } else { parts.join(", ") }
}
