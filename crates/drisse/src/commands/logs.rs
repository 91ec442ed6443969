//! `drisse logs`: shows the logs of a service's replicas in readable form.

use crate::cli::{Logs, Output};
use crate::connect::WorkspaceRef;
use crate::error::{INTERRUPTED, Result};
use crate::printer;
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) async fn run(workspace: &WorkspaceRef, arguments: &Logs, output: Output) -> Result<ExitCode> {
    if output == Output::Json && !arguments.follow {
        let client = workspace.reach().await?;
        let mut stream = client.logs(&arguments.service, arguments.lines, false).await?;
        let mut lines = Vec::new();
        while let Some(line) = stream.next().await? {
            lines.push(line);
        }
        printer::result(output, || json!({ "lines": lines }), String::new);
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = arguments.lines;
    loop {
        let client = workspace.reach().await?;
        let follow = arguments.follow && !workspace.is_down();
        let mut stream = client.logs(&arguments.service, lines, follow).await?;
        loop {
            let line = tokio::select! {
                line = stream.next() => line?,
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(INTERRUPTED)),
            };
            let Some(line) = line else { break };
            printer::text(&format!("{}\n", readable(&line)));
            if printer::is_lost() {
                return Ok(ExitCode::SUCCESS);
            }
        }
        if !arguments.follow || workspace.is_down() {
            return Ok(ExitCode::SUCCESS);
        }
        // The control plane was killed: the next one continues with new lines.
        lines = 0;
    }
}

/// Formats a log line for people: Drisse's JSON lines become `TIME LEVEL message key=value`.
fn readable(line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else { return printer::plain(line) };
    let mut take = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let (time, level, message) = (take("timestamp"), take("level"), take("message"));
    take("target");
    if time.is_empty() || level.is_empty() {
        return printer::plain(line);
    }
    let rest: String = fields.iter().map(|(key, value)| format!(" {key}={value}")).collect();
    printer::plain(&format!("{time} {level:<5} {message}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ours_are_made_readable_and_others_are_left() {
        let ours =
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","message":"slow","target":"x","ms":3}"#;
        assert_eq!(readable(ours), "2026-01-01T00:00:00Z WARN  slow ms=3");
        assert_eq!(readable("error: no"), "error: no");
        assert_eq!(readable("{\"a\":1}"), "{\"a\":1}");
    }
}
