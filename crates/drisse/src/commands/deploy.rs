//! `drisse deploy`, `update` and `rollback`: start the operation, follow it, score the sample, show the endpoint.

use crate::cli::{Deploy, Output, Rollback, ServiceOptions, Update, WhenRestarted};
use crate::commands::curl::{Curl, this_program};
use crate::commands::upload::Given;
use crate::connect::WorkspaceRef;
use crate::error::{CliError, INTERRUPTED, Result};
use crate::follow::{Left, follow};
use crate::{printer, units};
use anyhow::Context;
use drisse_client::{Client, ClientError};
use drisse_core::MaxWait;
use drisse_registry::ModelSource;
use drisse_wire::control::{
    DeployRequest, Keys, ModelChoice, Operation, Resources, RestartPolicy, RollbackRequest, Secrets, Service,
    ServingOptions,
};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Bytes. An answer up to this length is shown whole.
const MAX_ANSWER: usize = 240;

pub(crate) async fn deploy(workspace: &WorkspaceRef, arguments: &Deploy, output: Output) -> Result<ExitCode> {
    let options = &arguments.options;
    let source = choose_file(&arguments.model, options)?;
    let client = workspace.connect().await?;
    let (model, sample) = choose(workspace, &client, &arguments.model, source.as_ref(), options).await?;
    let mut request = DeployRequest { sample, ..request(options, Some(model), source.as_ref())? };
    request.name.clone_from(&arguments.name);
    request.target.clone_from(&arguments.target);
    let operation = client.deploy(&request).await?;
    finish(workspace, &client, operation, options.no_wait, sample_file(options, source)?, output).await
}

pub(crate) async fn update(workspace: &WorkspaceRef, arguments: &Update, output: Output) -> Result<ExitCode> {
    let options = &arguments.options;
    let source = arguments.model.as_ref().map(|text| choose_file(text, options)).transpose()?.flatten();
    let client = workspace.connect().await?;
    let (model, sample) = match &arguments.model {
        Some(model) => {
            let (model, sample) = choose(workspace, &client, model, source.as_ref(), options).await?;
            (Some(model), sample)
        }
        None => (None, None),
    };
    let request = DeployRequest { sample, ..request(options, model, source.as_ref())? };
    let operation = client.update(&arguments.service, &request).await?;
    finish(workspace, &client, operation, options.no_wait, sample_file(options, source)?, output).await
}

pub(crate) async fn rollback(
    workspace: &WorkspaceRef,
    arguments: &Rollback,
    output: Output,
) -> Result<ExitCode> {
    let client = workspace.reach().await?;
    let timeout_ms = arguments.timeout.map(milliseconds);
    let request = RollbackRequest { revision: arguments.revision, timeout_ms };
    let operation = client.rollback(&arguments.service, request).await?;
    finish(workspace, &client, operation, arguments.no_wait, None, output).await
}

/// Opens the model if `text` names a file or folder: a path has a `/` or an extension, anything else may be a registered
/// model. A wrong file is so reported without starting the control plane.
fn choose_file(text: &str, options: &ServiceOptions) -> Result<Option<ModelSource>> {
    let sample = options.sample.as_ref().filter(|sample| !sample.is_file());
    if let Some(sample) = sample {
        return Err(CliError::new(format!("sample {} not found", sample.display())));
    }
    if text.starts_with("oci://") || !super::named::is_path(text) {
        return Ok(None);
    }
    let source = super::models::open(Path::new(text), options.follow_links);
    Ok(Some(source.with_context(|| format!("cannot deploy {text}"))?))
}

/// Returns the model to deploy and, for a file or folder, the sample that requests name.
async fn choose(
    workspace: &WorkspaceRef,
    client: &Client,
    text: &str,
    source: Option<&ModelSource>,
    options: &ServiceOptions,
) -> Result<(ModelChoice, Option<String>)> {
    if text.starts_with("oci://") {
        return match super::transfer::pull(workspace, text, None, &options.registry).await? {
            Left::Done(done) => {
                let (name, version) = (&done.result["name"], &done.result["version"]);
                let model = format!("{}:{version}", name.as_str().unwrap_or_default());
                Ok((ModelChoice::Registered(model), None))
            }
            Left::Detached(_) => {
                let message = "interrupted: the model is being registered, but not deployed";
                Err(CliError::new(message).code(INTERRUPTED))
            }
        };
    }
    if let Some(source) = source {
        let sample = options.sample.as_deref();
        let mut given = Given::new(workspace, client, Path::new(text), source, sample).await?;
        let sample = given.sample.take();
        return Ok((given.choice(), sample));
    }
    let (name, version) = super::models::parse(text)?;
    let registered = match client.model(name, version).await {
        Ok(_) => true,
        Err(ClientError::Refused(_, 404)) => false,
        Err(other) => return Err(other.into()),
    };
    match (registered, Path::new(text).exists()) {
        (true, false) => Ok((ModelChoice::Registered(text.to_owned()), None)),
        (true, true) => Err(CliError::new(format!(
            "`{text}` is both a registered model and a file or folder here"
        ))
        .hint(format!("write ./{text} for the file, or run the command in another folder for the model"))),
        (false, true) => Err(CliError::new(format!("no model is registered as `{text}`"))
            .hint(format!("write ./{text} for the file or folder"))),
        (false, false) => Err(CliError::new(format!("model `{text}` not found"))
            .hint("`drisse models` lists the registered models; a path has a `/` or an extension")),
    }
}

/// Returns the request of these options, without the sample. `source` is the model, if files are deployed.
pub(super) fn request(
    options: &ServiceOptions,
    model: Option<ModelChoice>,
    source: Option<&ModelSource>,
) -> Result<DeployRequest> {
    if options.sample.is_some() && source.is_none() {
        return Err(CliError::new("cannot use --sample without a model file")
            .hint("a sample is stored with its model: name the model file too"));
    }
    if options.follow_links && source.is_none() {
        return Err(CliError::new("cannot use --follow-links without a model file")
            .hint("links are followed while the model is registered: name its file or folder"));
    }
    let configured = source.map(|source| &source.configured);
    let number = |number: Option<usize>| number.and_then(|number| u32::try_from(number).ok());
    Ok(DeployRequest {
        model,
        replicas: options.replicas,
        auth: match (options.auth, options.no_auth) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        tags: (!options.tags.is_empty()).then(|| options.tags.iter().cloned().collect()),
        aliases: (options.no_alias || !options.aliases.is_empty()).then(|| options.aliases.clone()),
        cors_origins: (options.no_cors || !options.cors_origins.is_empty())
            .then(|| options.cors_origins.clone()),
        access_log: (options.access_log || options.no_access_log).then_some(options.access_log),
        follow_links: options.follow_links,
        max_wait_ms: options.max_wait.map(|wait| match wait {
            MaxWait::Auto => 0,
            MaxWait::Fixed(time) => milliseconds(time),
        }),
        scoring_timeout_ms: options.scoring_timeout.map(milliseconds),
        serving: ServingOptions {
            threads: options.threads,
            workers: options.workers.or(number(configured.and_then(|server| server.workers))),
            max_batch: options.max_batch.or(number(configured.and_then(|server| server.max_batch))),
            triton_metrics: (options.triton_metrics || options.no_triton_metrics)
                .then_some(options.triton_metrics),
        },
        resources: resources(options)?,
        timeout_ms: options.timeout.map(milliseconds),
        replace: options.replace,
        ..DeployRequest::default()
    })
}

fn resources(options: &ServiceOptions) -> Result<Resources> {
    let restart = options.restart.map(|when| match when {
        WhenRestarted::Always => RestartPolicy::Always,
        WhenRestarted::OnFailure => RestartPolicy::OnFailure,
        WhenRestarted::Never => RestartPolicy::Never,
    });
    let secret_env = match &options.secret_env {
        Some(file) => Some(secrets(file)?),
        None => options.no_secret_env.then(Secrets::default),
    };
    Ok(Resources {
        cpu_millis: options.cpu,
        memory_bytes: options.memory,
        restart,
        env: (options.no_env || !options.env.is_empty()).then(|| options.env.iter().cloned().collect()),
        secret_env,
    })
}

/// Reads variables from a file, one NAME=VALUE per line. Empty lines and lines that begin with `#` are ignored.
fn secrets(file: &Path) -> Result<Secrets> {
    let shown = file.display();
    let text = match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let text = text.with_context(|| format!("cannot read secret variables from {shown}"))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let variables = lines.map(|(number, line)| match line.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        // The message leaves out the line: it may be a secret.
        _ => Err(CliError::new(format!("line {number} of {shown} is not NAME=VALUE"))),
    });
    Ok(Secrets(variables.collect::<Result<_, _>>()?))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Returns the sample as a file of the user's, for the curl line.
fn sample_file(options: &ServiceOptions, source: Option<ModelSource>) -> Result<Option<PathBuf>> {
    let sample = options.sample.clone().or(source.and_then(|source| source.sample));
    Ok(sample.map(std::path::absolute).transpose().context("cannot find the current folder")?)
}

async fn finish(
    workspace: &WorkspaceRef,
    client: &Client,
    operation: Operation,
    no_wait: bool,
    sample: Option<PathBuf>,
    output: Output,
) -> Result<ExitCode> {
    let began = Instant::now();
    let name = operation.subject.clone();
    if no_wait {
        let id = operation.id;
        let document = || json!({ "name": name, "operation": id, "state": "Deploying" });
        let flag = workspace.flag();
        let text = || format!("operation {id} has started: `drisse{flag} operations show {id}` follows it\n");
        printer::result(output, document, text);
        return Ok(ExitCode::SUCCESS);
    }
    let done = match follow(workspace, client, &operation).await? {
        Left::Done(done) => done,
        Left::Detached(code) => return Ok(code),
    };
    let service = workspace.ask(client, async |client| client.service(&name).await).await?;
    let keys = workspace.ask(client, async |client| client.keys(&name).await).await?;
    let body = workspace.ask(client, async |client| client.sample(&name).await).await.ok();
    let gateway = workspace.ask(client, async |client| client.status().await).await?.gateway;
    let mut answer = None;
    if let Some(body) = &body {
        match super::score::score(workspace, &gateway, &service, &keys, body.clone()).await {
            Ok((200, answered)) => {
                printer::note(&format!("{:>8}  scored the sample", units::seconds(began.elapsed())));
                answer = Some(String::from_utf8_lossy(&answered).trim_end().to_owned());
            }
            // Some models refuse a generated sample, which is all zeros.
            Ok((status, answered)) => {
                let text = printer::plain(&String::from_utf8_lossy(&answered));
                printer::note(&format!("cannot score the sample: status {status}: {text}"));
            }
            // The gateway of another machine may serve clients that this one is not.
            Err(error) if matches!(workspace, WorkspaceRef::Remote(..)) => {
                printer::note(&printer::plain(&format!("the sample is not scored: {:#}", error.error)));
            }
            Err(error) => return Err(error),
        }
    }
    let document = || document(&service, &keys, &done, answer.as_deref());
    let text = || {
        text(
            workspace,
            &service,
            gateway.certificate.as_deref(),
            sample.as_deref(),
            body.as_deref(),
            answer.as_deref(),
        )
    };
    printer::result(output, document, text);
    Ok(ExitCode::SUCCESS)
}

fn document(service: &Service, keys: &Keys, done: &Operation, answer: Option<&str>) -> Value {
    json!({
        "name": service.name,
        "model": service.model,
        "digest": service.digest,
        "revision": service.revision,
        "target": service.target,
        "state": service.state,
        "scoring_uri": service.scoring_uri,
        "swagger_uri": service.swagger_uri,
        "primary_key": keys.primary_key,
        "secondary_key": keys.secondary_key,
        "replicas": service.replicas,
        "tags": service.tags,
        "aliases": service.aliases,
        "cors_origins": service.cors_origins,
        "access_log": service.access_log,
        "changed": done.result["changed"],
        "operation": done.id,
        "answer": answer.and_then(|answer| serde_json::from_str::<Value>(answer).ok()),
    })
}

fn text(
    workspace: &WorkspaceRef,
    service: &Service,
    certificate: Option<&str>,
    sample: Option<&Path>,
    body: Option<&[u8]>,
    answer: Option<&str>,
) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name:<9} {value}");
    };
    line("service", &format!("{}, revision {}, {}", service.name, service.revision, service.state));
    line("model", &format!("{} ({})", service.model, service.digest));
    line("endpoint", &service.scoring_uri);
    line("openapi", &service.swagger_uri);
    if let Some(answer) = answer {
        let end = answer.floor_char_boundary(MAX_ANSWER);
        let more = if end < answer.len() { "…" } else { "" };
        line("answer", &format!("{}{more}", printer::plain(&answer[..end])));
    }
    let _ = write!(out, "\ntry it:\n\n  {}\n\n", curl(workspace, service, certificate, sample, body));
    out
}

/// Returns a curl line to paste into a shell.
fn curl(
    workspace: &WorkspaceRef,
    service: &Service,
    certificate: Option<&str>,
    sample: Option<&Path>,
    body: Option<&[u8]>,
) -> String {
    let header = || format!("{}{} keys {} --header", this_program(), workspace.flag(), service.name);
    let uri = &service.scoring_uri;
    let curl = Curl {
        header: service.auth.then(header),
        socket: None,
        certificate: certificate.map(Path::new),
        uri: uri.clone(),
        file: sample,
        sample: body,
        sample_uri: format!("{}/sample", uri.strip_suffix("/score").unwrap_or(uri)),
        description_uri: service.swagger_uri.clone(),
    };
    curl.line()
}
