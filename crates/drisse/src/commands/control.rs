//! `drisse control`: the control plane, which `drisse up` and every command that needs it starts.

use crate::cli::Up;
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result, TAKEN};
use crate::logs;
use crate::wiring::{self, VERSION};
use anyhow::Context;
use drisse_control::{Change, Config, GatewayChange, RunError, TcpApi};
use drisse_net::Build;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn change<T>(set: Option<T>, clear: bool) -> Change<T> {
    match set {
        Some(value) => Change::Set(value),
        None if clear => Change::Clear,
        None => Change::Keep,
    }
}

pub(crate) fn run(up: &Up, workspace: WorkspaceRef) -> Result<ExitCode> {
    let folder = workspace.folder()?.clone();
    // Only this user can access the files that this process and its children create.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Keeps running when the terminal that it was started from closes.
    let _ = rustix::process::setsid();
    std::fs::create_dir_all(folder.logs()).context("cannot create the folder for logs")?;
    logs::write_to(&folder.logs().join("control.log"))?;
    // Not the user's folder: what container engines run (conmon) leaves files in the folder that it was started from.
    std::env::set_current_dir(folder.logs()).context("cannot use the folder for logs")?;
    drisse_net::keep_memory_private();
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let build = Build::current(VERSION);
    let pair = |certificate: &Option<_>, key: &Option<_>| certificate.clone().zip(key.clone());
    let gateway = GatewayChange {
        address: up.gateway,
        tls: pair(&up.tls_cert, &up.tls_key),
        idle_timeout: up.idle_timeout,
        public_url: change(up.public_url.clone(), up.no_public_url),
    };
    let tcp = up.control.map(|address| TcpApi { address, tls: pair(&up.control_cert, &up.control_key) });
    let library = up.onnxruntime.clone();
    let config = Config {
        workspace: folder,
        version: VERSION,
        build: build.clone(),
        program: program.clone(),
        gateway,
        tcp: change(tcp, up.no_control),
        metrics: change(up.metrics, up.no_metrics),
        registry: change(up.registry, up.no_registry),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
        // A signal that is caught no longer ends the process.
        let _hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let targets = |folder: &drisse_control::Workspace, store: &drisse_registry::Store| {
            wiring::targets(folder, store, &program, &build, library)
        };
        Ok::<_, anyhow::Error>(drisse_control::run(config, targets, stop).await)
    })?;
    // A blocking thread may still be copying a model. Its blobs are collected at the next start.
    runtime.shutdown_background();
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(RunError { failure, taken }) => {
            let failure = CliError::from(failure);
            Err(if taken { failure.code(TAKEN) } else { failure })
        }
    }
}
