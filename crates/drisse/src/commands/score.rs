//! `drisse score`: sends one request through the gateway, with the service's own key.

use crate::cli::Score;
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use drisse_net::http::Ask;
use drisse_wire::control::{GatewayInfo, Keys, Service};
use hyper::Method;
use hyper::body::Bytes;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

pub(crate) async fn run(workspace: &WorkspaceRef, arguments: &Score) -> Result<ExitCode> {
    let client = workspace.reach().await?;
    let body = match &arguments.file {
        Some(file) if file == Path::new("-") => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).context("cannot read standard input")?;
            body.into()
        }
        Some(file) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?.into(),
        None => client.sample(&arguments.service).await?,
    };
    let service = client.service(&arguments.service).await?;
    let keys = client.keys(&arguments.service).await?;
    let gateway = client.status().await?.gateway;
    let (status, answer) = score(workspace, &gateway, &service, &keys, body).await?;
    let text = String::from_utf8_lossy(&answer);
    if status < 400 {
        printer::text(&format!("{}\n", text.trim_end()));
        return Ok(ExitCode::SUCCESS);
    }
    let message = serde_json::from_slice::<serde_json::Value>(&answer).ok();
    let message = message.as_ref().and_then(|answer| answer["message"].as_str()).unwrap_or(&text);
    let failure = CliError::new(format!("service `{}` answered {status}: {message}", arguments.service));
    Err(failure.code(if status < 500 { 1 } else { 2 }))
}

/// Sends a body to a service through the gateway, and returns the status and the answer.
pub(crate) async fn score(
    workspace: &WorkspaceRef,
    gateway: &GatewayInfo,
    service: &Service,
    keys: &Keys,
    body: Bytes,
) -> Result<(u16, Bytes)> {
    let address = workspace.gateway(gateway)?;
    let path = format!("/api/v1/service/{}/score", service.name);
    let ask = Ask { bearer: keys.primary_key.as_deref(), ..Ask::send(Method::POST, &path, body) };
    let answer = address.ask(ask).await.context("cannot score through the gateway");
    answer.map_err(|error| CliError::from(error).code(2))
}
