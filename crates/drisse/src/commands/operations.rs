//! `drisse operations`: lists, follows and cancels operations.

use super::models::{note_more, paged, query};
use crate::cli::{Operations, OperationsCommand, Output};
use crate::connect::WorkspaceRef;
use crate::error::Result;
use crate::follow::{Left, follow};
use crate::printer;
use drisse_wire::control::Operation;
use serde_json::json;
use std::process::ExitCode;

pub(crate) async fn run(
    workspace: &WorkspaceRef,
    arguments: &Operations,
    output: Output,
) -> Result<ExitCode> {
    let client = workspace.reach().await?;
    match &arguments.command {
        None => {
            let query = query(&[("subject", arguments.subject.as_deref())]);
            let page = client.operations(&paged(query, &arguments.page)).await?;
            printer::result(output, || json!(page), || table(&page.items));
            note_more(&page.next, page.items.is_empty(), "operations", output);
        }
        Some(OperationsCommand::Show { id }) => {
            let operation = client.operation(*id).await?;
            // A failed operation is a result of this command, not its failure.
            let ended = match operation.finished_at {
                Some(_) => operation,
                None if workspace.is_down() => operation,
                None => match follow(workspace, &client, &operation).await {
                    Ok(Left::Detached(code)) => return Ok(code),
                    Ok(Left::Done(done)) => *done,
                    Err(failure) => client.operation(*id).await.map_err(|_| failure)?,
                },
            };
            printer::result(output, || json!(ended), || text(&ended));
        }
        Some(OperationsCommand::Cancel { id }) => {
            let operation = client.cancel(*id).await?;
            printer::result(output, || json!(operation), || format!("operation {id} is being canceled\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(operations: &[Operation]) -> String {
    let row = |operation: &Operation| {
        let error = operation.error.as_ref().map(|error| error.message.clone());
        vec![
            operation.id.to_string(),
            operation.kind.clone(),
            operation.subject.clone(),
            format!("{:?}", operation.state),
            operation.created_at.clone(),
            error.unwrap_or_default(),
        ]
    };
    printer::table(&["ID", "KIND", "SUBJECT", "STATE", "CREATED", "ERROR"], operations.iter().map(row))
}

fn text(operation: &Operation) -> String {
    let mut out = table(std::slice::from_ref(operation));
    if let Some(error) = &operation.error {
        error.causes.iter().for_each(|cause| out += &format!("  Caused by: {}\n", printer::plain(cause)));
        error.hint.iter().for_each(|hint| out += &format!("\nhint: {hint}\n"));
    }
    out
}
