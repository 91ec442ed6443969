//! `drisse keys`: shows keys, prints them as a header for curl, replaces them.

use crate::cli::{Keys, Output, WhichKey};
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::follow::{Left, follow};
use crate::printer;
use anyhow::Context;
use drisse_wire::control::{KeyName, KeyRequest};
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::process::ExitCode;

/// Maximum number of bytes to read from standard input. A key has at most 256 characters.
const MAX_INPUT: u64 = 4096;

pub(crate) async fn run(workspace: &WorkspaceRef, arguments: &Keys, output: Output) -> Result<ExitCode> {
    let value = arguments.set.map(|_| read_key()).transpose()?;
    let client = workspace.reach().await?;
    let name = &arguments.service;
    if let Some(which) = arguments.regenerate.or(arguments.set) {
        let key = match which {
            WhichKey::Primary => KeyName::Primary,
            WhichKey::Secondary => KeyName::Secondary,
        };
        let operation = client.change_key(name, &KeyRequest { key, value }).await?;
        if let Left::Detached(code) = follow(workspace, &client, &operation).await? {
            return Ok(code);
        }
    }
    let keys = workspace.ask(&client, async |client| client.keys(name).await).await?;
    let open = || CliError::new(format!("service `{name}` has no keys: it accepts requests without one"));
    if arguments.header {
        let key = keys.primary_key.ok_or_else(open)?;
        let header = format!("Authorization: Bearer {key}");
        printer::result(output, || json!({ "header": header }), || format!("{header}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let text = || match (&keys.primary_key, &keys.secondary_key) {
        (Some(primary), Some(secondary)) => format!("primary    {primary}\nsecondary  {secondary}\n"),
        _ => format!("service `{name}` has no keys: it accepts requests without one\n"),
    };
    printer::result(output, || json!(keys), text);
    Ok(ExitCode::SUCCESS)
}

/// Reads a key from standard input: other users could see it in a command line.
fn read_key() -> Result<String> {
    if std::io::stdin().is_terminal() {
        printer::note("type the key, then Enter and Ctrl-D:");
    }
    let mut text = String::new();
    std::io::stdin().take(MAX_INPUT).read_to_string(&mut text).context("cannot read the key")?;
    let key = text.trim();
    if key.is_empty() {
        return Err(CliError::new("standard input contains no key")
            .hint("`openssl rand -hex 32 | drisse keys NAME --set primary`"));
    }
    Ok(key.to_owned())
}
