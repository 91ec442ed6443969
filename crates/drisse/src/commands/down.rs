//! `drisse down`: stops the control plane, the gateway and the replicas of a workspace.

use super::up::held;
use crate::cli::Output;
use crate::connect::{Presence, WorkspaceRef, refuse_other_user};
use crate::error::{CliError, Result};
use crate::printer;
use drisse_client::Client;
use drisse_control::Workspace;
use drisse_net::Process;
use drisse_wire::control::Shutdown;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// After this time, a note says what the command waits for.
const SILENCE: Duration = Duration::from_secs(2);

/// A control plane that does not answer for this time is killed.
const SILENT: Duration = Duration::from_secs(15);

/// Pause before a control plane that has just been started is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Maximum time for everything to stop. Replicas take at most 25 s to answer their running requests.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn down(workspace: &WorkspaceRef, output: Output) -> Result<ExitCode> {
    let folder = workspace.folder()?;
    let holder = folder.holder();
    holder.as_ref().map_or(Ok(()), |holder| refuse_other_user(folder, holder))?;
    let held = held(folder, holder.as_ref());
    let mut client = reach_or_kill(folder, &held).await?;
    if client.is_none() && left_containers(held.folder()?) {
        let started = workspace.connect().await;
        client = Some(started.map_err(|failure| CliError {
            error: failure.error.context("cannot stop the running containers"),
            ..failure
        })?);
    }
    let stopped = async {
        if let Some(client) = client {
            // The list of locks may miss one while others change, so the control plane itself is asked first.
            let status = client.status().await.ok();
            let pid = status.and_then(|status| status.control.pid).or_else(|| Some(folder.holder()?.pid));
            let control = pid.and_then(|pid| Process::of(pid).ok());
            // An error means that the control plane is already stopping.
            let _ = client.shutdown(Shutdown::All).await;
            if let Some(mut control) = control {
                control.ended().await;
            }
        }
        end_all(folder, held.folder()?).await
    };
    let mut stopped = std::pin::pin!(stopped);
    let waited = async {
        tokio::select! {
            outcome = &mut stopped => return outcome,
            () = tokio::time::sleep(SILENCE) => {
                printer::note("waiting for running requests to finish");
            }
        }
        stopped.await
    };
    tokio::time::timeout(PATIENCE, waited).await.map_err(|_| {
        let failure = CliError::new(format!("some processes did not stop within {} s", PATIENCE.as_secs()));
        failure.code(2).hint(format!("the logs are in {}", folder.logs().display()))
    })??;
    let text = || "everything has stopped; `drisse up` starts it again\n".to_owned();
    printer::result(output, || json!({ "stopped": true }), text);
    Ok(ExitCode::SUCCESS)
}

/// Returns a client of the control plane; `None` if there is none. Kills one that has the workspace and does not answer.
async fn reach_or_kill(folder: &Workspace, held: &WorkspaceRef) -> Result<Option<Client>> {
    let began = Instant::now();
    loop {
        match held.presence(SILENT).await {
            Presence::Answers(client, _) => return Ok(Some(client)),
            Presence::Silent => break,
            Presence::Absent if folder.holder().is_none() => return Ok(None),
            // It has the workspace, and does not listen yet.
            Presence::Absent if began.elapsed() > SILENT => break,
            Presence::Absent => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
    let silent = folder.holder().and_then(|holder| Process::of(holder.pid).ok());
    let Some(mut silent) = silent else {
        return Err(CliError::new("the control plane does not answer, and its process cannot be found")
            .code(2)
            .hint("`pgrep -af 'drisse control'` shows it: end it, and run `drisse down` again"));
    };
    printer::note(&format!(
        "the control plane (process {}) has not answered for {} s: it is killed",
        silent.pid(),
        SILENT.as_secs()
    ));
    silent.kill();
    let ended = tokio::time::timeout(SILENT, silent.ended()).await;
    // A process that waits for a disk ends only after that.
    ended.map(|_| None).map_err(|_| {
        CliError::new(format!("the control plane (process {}) does not end", silent.pid()))
            .code(2)
            .hint("it may wait for a disk: try again when the disk works")
    })
}

/// Whether a killed control plane may have left running containers: each has a folder among the sockets. Only a
/// control plane knows where they run.
fn left_containers(workspace: &Workspace) -> bool {
    let entries = std::fs::read_dir(&workspace.sockets).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|end| end == "d"))
}

/// Stops the gateway and the replicas that a killed control plane has left: those of the workspace's name now, of its
/// name when the control plane was started, and those that use files in its folder. Holds the lock of the workspace, so
/// that no control plane starts meanwhile.
async fn end_all(folder: &Workspace, held: &Workspace) -> Result<()> {
    if !folder.root.exists() {
        return Ok(());
    }
    let _lock = match folder.try_lock() {
        Ok(None) => {
            return Err(CliError::new("the workspace is in use again: another command has started it")
                .code(2)
                .hint("`drisse status` shows its processes"));
        }
        Ok(lock) => lock,
        // On a disk that cannot be written, no control plane can start either.
        Err(_) => None,
    };
    let mut left = Vec::new();
    for flag in ["--gateway", "--replica"] {
        for id in [&folder.id, &held.id] {
            left.extend(Process::find(flag, &format!("{id}/")).unwrap_or_default());
        }
        left.extend(Process::find_using(flag, &folder.root).unwrap_or_default());
    }
    left.iter().for_each(|(process, _)| process.terminate());
    for (process, _) in &mut left {
        process.ended().await;
    }
    for sockets in [&folder.sockets, &held.sockets] {
        let _ = std::fs::remove_dir_all(sockets);
    }
    if folder.database().exists() {
        // Commands that only read see this file, and start nothing.
        let _ = std::fs::write(folder.stopped_mark(), "");
    }
    Ok(())
}
