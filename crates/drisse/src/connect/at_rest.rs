//! Reads what a workspace keeps while it is down. This process then answers its own requests: nothing is started.

use super::{PATIENCE, Presence, SILENCE, WorkspaceRef};
use crate::error::{CliError, Result};
use crate::printer;
use crate::wiring::{self, VERSION};
use anyhow::Context;
use drisse_client::Client;
use drisse_control::{RunError, Workspace, serve_at_rest};
use drisse_net::http::Address;
use drisse_net::{Build, bind_unix};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Pause before the lock is tried again, which another command may hold.
const RETRY: Duration = Duration::from_millis(20);

/// Answers requests about a workspace that is down, until this process ends.
#[derive(Debug)]
pub(crate) struct AtRest {
    /// The folder of the socket, removed at the end.
    folder: TempDir,
}

/// What answers requests about a workspace that the user has stopped.
#[derive(Debug)]
pub(super) enum Reached {
    /// A control plane: it was started again meanwhile.
    Running(Client),
    /// This process.
    AtRest(AtRest),
}

/// Reaches a workspace that the user has stopped. Waits while another command has its lock.
pub(super) async fn reach(named: &WorkspaceRef, workspace: &Workspace) -> Result<Reached> {
    let began = Instant::now();
    let lock = loop {
        if let Presence::Answers(client, _) = named.presence(SILENCE).await {
            return Ok(Reached::Running(client));
        }
        if let Some(lock) = workspace.try_lock().map_err(|error| error.failure)? {
            break lock;
        }
        if began.elapsed() > PATIENCE {
            let message = format!("the workspace {} is in use", workspace.root.display());
            return Err(CliError::new(message).code(2).hint("`drisse status` shows by which process"));
        }
        tokio::time::sleep(RETRY).await;
    };
    printer::note("the workspace is down: this is what it keeps; `drisse up` starts it");
    let folder = TempDir::new().context("cannot make a temporary folder")?;
    let listener = bind_unix(&folder.path().join("control")).context("cannot open a socket")?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let build = Build::current(VERSION);
    let (workspace, answers) = (workspace.clone(), build.clone());
    // Nothing is started, so ONNX Runtime is not looked for.
    let targets = move |workspace: &_, store: &_| {
        wiring::targets(workspace, store, &program, &build, Some(PathBuf::new()))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let (opened, outcome) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        runtime.block_on(async {
            match serve_at_rest(workspace, VERSION, answers, targets, (listener, lock)).await {
                Ok(served) => {
                    let _ = opened.send(Ok(()));
                    served.await;
                }
                Err(error) => drop(opened.send(Err(error))),
            }
        });
    });
    match outcome.await {
        Ok(Ok(())) => Ok(Reached::AtRest(AtRest { folder })),
        Ok(Err(RunError { failure, .. })) => Err(failure.into()),
        Err(_) => Err(CliError::new("cannot read the workspace: its reader has ended").code(2)),
    }
}

impl AtRest {
    pub(super) fn client(&self) -> Client {
        Client::new(Address::unix(&self.folder.path().join("control")), None)
    }
}
