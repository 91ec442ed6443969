//! Follows an operation: prints its progress, and detaches at Ctrl-C.

use crate::connect::WorkspaceRef;
use crate::error::{CliError, INTERRUPTED, Result};
use crate::{printer, units};
use drisse_client::Client;
use drisse_net::SILENCE;
use drisse_wire::control::{Operation, OperationState, Progress};
use indicatif::ProgressBar;
use std::convert::Infallible;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How following an operation ended.
pub(crate) enum Left {
    /// The operation succeeded.
    Done(Box<Operation>),
    /// The user interrupted the command; the operation continues.
    Detached(ExitCode),
}

/// Follows an operation until it ends. Prints its progress with the elapsed time on stderr.
pub(crate) async fn follow(workspace: &WorkspaceRef, client: &Client, begun: &Operation) -> Result<Left> {
    let began = Instant::now();
    let bar = printer::bar(None, "{spinner} {msg} {elapsed}");
    bar.enable_steady_tick(Duration::from_millis(120));
    bar.set_message(format!("{} {}", begun.kind, begun.subject));
    let mut each = |progress: &Progress| {
        let line = format!("{:>8}  {}", units::seconds(began.elapsed()), printer::plain(&progress.message));
        bar.suspend(|| printer::note(&line));
    };
    drisse_core::crash_point("an operation has begun");
    let id = begun.id;
    let waited = tokio::select! {
        waited = wait(workspace, client, id, &mut each) => waited,
        never = watch_answers(client, &bar) => match never {},
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            let flag = workspace.flag();
            printer::note(&format!(
                "\ndetached: the operation continues. `drisse{flag} operations show {id}` follows it, \
                 `drisse{flag} operations cancel {id}` cancels it"
            ));
            return Ok(Left::Detached(ExitCode::from(INTERRUPTED)));
        }
    };
    bar.finish_and_clear();
    let operation = waited?;
    drisse_core::crash_point("an operation was seen through");
    match (operation.state, operation.error.clone()) {
        (OperationState::Succeeded, _) => Ok(Left::Done(Box::new(operation))),
        (_, Some(failure)) => Err(failure.into()),
        (state, None) => Err(CliError::new(format!("operation {id} ended: {state:?}"))),
    }
}

/// Prints a note when the control plane stops answering, and when it answers again.
async fn watch_answers(client: &Client, bar: &ProgressBar) -> Infallible {
    let mut silent = false;
    loop {
        tokio::time::sleep(SILENCE).await;
        let answers = tokio::time::timeout(SILENCE, client.status()).await.is_ok();
        if answers == silent {
            silent = !answers;
            bar.suspend(|| {
                printer::note(match silent {
                    true => {
                        "waiting: the control plane does not answer (`pgrep -af 'drisse control'` shows its process)"
                    }
                    false => "the control plane answers again",
                });
            });
        }
    }
}

/// Waits until the operation ends. If the control plane is killed meanwhile, starts another one, which resumes the
/// operation.
async fn wait(
    workspace: &WorkspaceRef,
    client: &Client,
    id: i64,
    each: &mut dyn FnMut(&Progress),
) -> Result<Operation> {
    use drisse_client::ClientError;
    loop {
        match client.wait(id, each).await {
            Err(ClientError::Unreachable(_)) => {
                // A control plane that was killed is started again, but not one that `drisse down` has stopped.
                if workspace.is_down() {
                    let stopped = format!("the workspace was stopped before operation {id} ended");
                    return Err(CliError::new(stopped).hint("`drisse up` resumes the operation"));
                }
                workspace.reach().await?;
            }
            other => return Ok(other?),
        }
    }
}
