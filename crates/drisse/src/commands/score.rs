//! `drisse score`: sends one request through the gateway, with the service's own key.

use crate::cli::Score;
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use drisse_client::Client;
use drisse_net::http::{Address, Ask};
use drisse_net::trusting;
use drisse_wire::control::{Keys, Service};
use hyper::Method;
use hyper::body::Bytes;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

pub(crate) async fn run(place: &WorkspaceRef, arguments: &Score) -> Result<ExitCode> {
    let client = place.connect().await?;
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
    let (status, answer) = score(&client, &service, &keys, body).await?;
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

/// Sends a body to a service's endpoint, and returns the status and the answer.
pub(crate) async fn score(
    client: &Client,
    service: &Service,
    keys: &Keys,
    body: Bytes,
) -> Result<(u16, Bytes)> {
    let uri = &service.scoring_uri;
    let (scheme, rest) =
        uri.split_once("://").ok_or_else(|| CliError::new("cannot score: the gateway is not running"))?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = if scheme == "https" {
        let certificate = client.status().await?.gateway.certificate;
        let certificate =
            certificate.ok_or_else(|| CliError::new("cannot score: the gateway's certificate is unknown"))?;
        Address::Https(host.to_owned(), trusting(Path::new(&certificate))?)
    } else {
        Address::Http(host.to_owned())
    };
    let ask = Ask { bearer: keys.primary_key.as_deref(), ..Ask::send(Method::POST, path, body) };
    let answer = address.ask(ask).await.context("cannot score through the gateway");
    answer.map_err(|error| {
        let failure = CliError::from(error);
        if scheme == "https" {
            failure.hint(
                "the gateway's certificate must be an end-entity certificate (CA:FALSE) for this address",
            )
        } else {
            failure.code(2)
        }
    })
}
