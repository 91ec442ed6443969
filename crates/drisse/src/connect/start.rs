//! Starts the control plane of a workspace, and replaces an older one.

use super::{ASK_AGAIN, FRUGAL, PATIENCE, SILENCE};
use crate::cli::Up;
use crate::error::{CliError, Result, TAKEN};
use crate::printer;
use crate::wiring::{self, VERSION};
use anyhow::Context;
use drisse_client::Client;
use drisse_control::Workspace;
use drisse_net::{Build, Exit, Launch, Process};
use drisse_wire::control::{Shutdown, Status};
use std::ffi::OsString;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Maximum time for a control plane to start. A busy machine may stall for half a minute.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// First pause before another start if the workspace was locked; doubles each time.
const RETAKE: Duration = Duration::from_millis(50);

pub(super) fn is_older(status: &Status) -> bool {
    Build::parse(&status.build).is_none_or(|theirs| theirs < Build::current(VERSION))
}

/// Stops only the control plane: the gateway and the replicas keep running.
pub(super) async fn hand_over(client: &Client, status: &Status) -> Result<()> {
    let process = status.control.pid.and_then(|pid| Process::of(pid).ok());
    client.shutdown(Shutdown::Handover).await?;
    if let Some(mut process) = process {
        let ended = tokio::time::timeout(PATIENCE, process.ended()).await;
        ended.map_err(|_| CliError::new("the older control plane does not stop").code(2))?;
    }
    Ok(())
}

/// Starts a control plane and waits until it answers.
pub(super) async fn start(workspace: &Workspace, up: &Up, client: &Client) -> Result<Status> {
    let library = wiring::onnx_library(up.onnxruntime.as_deref())?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let logs = workspace.logs();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs);
    made.with_context(|| format!("cannot write in the workspace {}", workspace.root.display()))?;
    let log = logs.join("control.log");
    let written = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let launch = || -> Result<Process> {
        let arguments = arguments(workspace, up, &library);
        let launch = Launch { program: &program, arguments, settings: &FRUGAL, log: &log, stdin: None };
        let started = Process::start(launch).context("cannot start the control plane");
        started.map_err(|error| {
            CliError::from(error).hint("`drisse doctor` checks whether the workspace is writable")
        })
    };
    let mut process = launch()?;
    let began = Instant::now();
    let (mut noted, mut taken, mut killed): (_, Option<Instant>, _) = (false, None, false);
    let mut pause = RETAKE;
    loop {
        if let Ok(status) = client.status().await {
            if let Some(note) = &status.gateway.note {
                printer::note(note);
            }
            return Ok(status);
        }
        tokio::select! {
            exit = process.ended(), if taken.is_none() => {
                // Another command was faster: wait until its control plane answers.
                if exit == Exit::Code(i32::from(TAKEN)) {
                    taken = Some(Instant::now());
                    continue;
                }
                // The process was killed, perhaps by the kernel for memory: start it once more.
                if matches!(exit, Exit::Signal(_)) && !killed {
                    killed = true;
                    process = launch()?;
                    continue;
                }
                return Err(logged_failure(&log, written, &format!("the control plane {exit}")));
            }
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
        // The lock may have belonged to a control plane that was just killed, or to `drisse down`. Neither leaves a
        // control plane running, so start one again.
        if taken.is_some_and(|since| since.elapsed() > pause) {
            process = launch()?;
            taken = None;
            pause = (pause * 2).min(SILENCE);
        }
        if began.elapsed() > SILENCE && !noted {
            printer::note(&format!("waiting for the control plane to start (it logs to {})", log.display()));
            noted = true;
        }
        if began.elapsed() > START_PATIENCE {
            let seconds = START_PATIENCE.as_secs();
            let failure = CliError::new(format!("the control plane did not start within {seconds} s"));
            return Err(failure.code(2).hint(format!("its log is {}", log.display())));
        }
    }
}

/// The command line of the control plane.
fn arguments(workspace: &Workspace, up: &Up, library: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["control".into()];
    let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    add("--workspace", workspace.root.clone().into());
    add("--onnxruntime", std::path::absolute(library).unwrap_or_else(|_| library.to_owned()).into());
    let addresses = [
        ("--gateway", up.gateway),
        ("--control", up.control),
        ("--metrics", up.metrics),
        ("--registry", up.registry),
    ];
    for (flag, address) in addresses {
        if let Some(address) = address {
            add(flag, address.to_string().into());
        }
    }
    let files = [
        ("--tls-cert", &up.tls_cert),
        ("--tls-key", &up.tls_key),
        ("--control-cert", &up.control_cert),
        ("--control-key", &up.control_key),
    ];
    for (flag, file) in files {
        if let Some(file) = file {
            add(flag, std::path::absolute(file).unwrap_or_else(|_| file.clone()).into());
        }
    }
    if let Some(time) = up.idle_timeout {
        add("--idle-timeout", format!("{}ms", time.as_millis()).into());
    }
    if let Some(url) = &up.public_url {
        add("--public-url", url.into());
    }
    arguments.extend(up.no_public_url.then(|| "--no-public-url".into()));
    arguments.extend(up.no_control.then(|| "--no-control".into()));
    arguments.extend(up.no_metrics.then(|| "--no-metrics".into()));
    arguments.extend(up.no_registry.then(|| "--no-registry".into()));
    arguments
}

/// Returns the error that a daemon has written to its log after `from` bytes, or `fallback` if there is none.
fn logged_failure(log: &Path, from: u64, fallback: &str) -> CliError {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        std::io::read_to_string(file)
    };
    let text = read().unwrap_or_default();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("error: "));
    let Some(error) = lines.next().and_then(|line| line.strip_prefix("error: ")) else {
        let failure = CliError::new(fallback).hint(format!("its log is {}", log.display()));
        return unwritable(log).unwrap_or(failure.code(2));
    };
    let rest: Vec<_> = lines.collect();
    let causes = rest.iter().filter_map(|line| line.trim_start().strip_prefix("Caused by: "));
    let failure = drisse_wire::control::Failure {
        causes: causes.map(str::to_owned).collect(),
        hint: rest.iter().find_map(|line| line.strip_prefix("hint: ").map(str::to_owned)),
        ..drisse_wire::control::Failure::new(error)
    };
    failure.into()
}

/// Returns the error if the folder of a log cannot be written.
fn unwritable(log: &Path) -> Option<CliError> {
    let folder = log.parent()?;
    let written = tempfile::tempfile_in(folder).and_then(|mut file| file.write_all(&[0; 4096]));
    let error = written.err()?;
    let failure = CliError::new(format!("cannot write in {}: {error}", folder.display()));
    Some(CliError { hint: drisse_registry::disk_hint(&error).map(Into::into), ..failure })
}
