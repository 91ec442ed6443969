//! `drisse serve`: one scoring server, complete by itself.

mod banner;
mod surroundings;
mod terminal;

use crate::cli::{Output, Serve};
use crate::error::{CliError, INTERRUPTED, Result};
use crate::wiring::EngineSettings;
use crate::{logs, printer, wiring};
use anyhow::Context;
use drisse_net::trace::Exporter;
use drisse_net::{Build, Limits};
use drisse_registry::{ModelSource, triton_repository};
use drisse_serve::{Config, Endpoint, ModelPath, ScoringServer, TlsFiles, TrustFiles, build};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::pin::pin;
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);

/// What an image listens on by default.
const IMAGE_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8000);

/// Where an image answers health checks and administrators by default.
const IMAGE_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8002);

pub(crate) fn run(arguments: &Serve, output: Output) -> Result<ExitCode> {
    surroundings::enter(arguments)?;
    if let Some(file) = &arguments.log_file {
        logs::write_to(file)?;
    }
    drisse_net::keep_memory_private();
    let exporter = Exporter::from_environment(&service(arguments))?;
    let mut config = config(arguments, models(arguments)?, tcp(arguments)?);
    config.scoring.traces = exporter.as_ref().map(Exporter::traces);
    let threads = config.tuner.cores.max(arguments.threads.unwrap_or(1));
    let engines = wiring::engines(&EngineSettings { threads, onnxruntime: arguments.onnxruntime.clone() });
    let server = build(config, engines)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the server")?;
    runtime.block_on(async {
        let exporting = exporter.map(Exporter::start);
        let ended = serve(server, arguments, output).await;
        if let Some(exporting) = exporting {
            exporting.finish().await;
        }
        ended
    })
}

/// Returns the models to serve. A model of the repository that cannot be served is reported and left out.
///
/// # Errors
/// Returns an error if there is no repository, or no model in it that can be served.
fn models(arguments: &Serve) -> Result<Vec<ModelPath>> {
    let mut models = arguments.models.clone();
    let Some(repository) = &arguments.repository else { return Ok(models) };
    let attempt = || format!("cannot serve the repository {}", repository.display());
    let folders = triton_repository(repository).with_context(attempt)?;
    for folder in folders {
        match ModelSource::open_versions_to_run(&folder) {
            Ok(_) => models.push(ModelPath::new(folder)),
            Err(error) => {
                let error = anyhow::Error::from(error).context(format!("{} is not served", folder.display()));
                printer::note(&printer::failure_text(&error.into()));
            }
        }
    }
    if models.is_empty() {
        return Err(CliError::new(attempt()).hint("none of its models can be served, as said above"));
    }
    Ok(models)
}

/// Returns the TCP address to serve on, if any.
///
/// # Errors
/// Returns an error if the variable `PORT` of an image is not a port.
fn tcp(arguments: &Serve) -> Result<Option<SocketAddr>> {
    if arguments.listen.is_some() || arguments.unix.is_some() {
        return Ok(arguments.listen);
    }
    if !arguments.image {
        return Ok(Some(DEFAULT_LISTEN));
    }
    let Some(port) = std::env::var_os("PORT").filter(|port| !port.is_empty()) else {
        return Ok(Some(IMAGE_LISTEN));
    };
    match port.to_str().and_then(|port| port.parse::<NonZeroU16>().ok()) {
        Some(port) => Ok(Some(SocketAddr::new(IMAGE_LISTEN.ip(), port.get()))),
        None => Err(CliError::new(format!("the variable PORT is not a port: `{}`", port.to_string_lossy()))
            .hint("set it to a number from 1 to 65535, or give --listen ADDRESS:PORT")),
    }
}

fn config(arguments: &Serve, models: Vec<ModelPath>, tcp: Option<SocketAddr>) -> Config {
    let defaults = drisse_scoring::Config::default();
    let scoring = drisse_scoring::Config {
        max_wait: arguments.max_wait,
        scoring_timeout: arguments.scoring_timeout,
        limits: Limits {
            drain_timeout: arguments.drain_timeout,
            idle_timeout: arguments.idle_timeout,
            ..defaults.limits
        },
        max_body: arguments.max_body,
        max_batch: arguments.max_batch,
        workers: defaults.workers.max(arguments.workers.unwrap_or(1)),
        model_control: arguments.model_control,
        shared_memory: arguments.shared_memory.clone(),
        cors_origins: arguments.cors_origin.clone(),
        replica: arguments.replica.clone(),
        triton_metrics: arguments.triton_metrics,
        build: Build::current(env!("CARGO_PKG_VERSION")).to_string(),
        max_held: defaults.max_held.max(2 * arguments.max_body),
        ..defaults
    };
    let tls = arguments.tls_cert.clone().zip(arguments.tls_key.clone());
    let trust = |keys| TrustFiles { keys, evidence: arguments.evidence.clone() };
    Config {
        models,
        aliases: arguments.alias.clone(),
        tcp,
        unix: arguments.unix.clone(),
        admin: arguments.admin.clone().or(arguments.image.then_some(Endpoint::Tcp(IMAGE_ADMIN))),
        keys: arguments.keys.clone(),
        no_auth: arguments.no_auth,
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        trust: arguments.trusted_keys.clone().map(trust),
        sample: arguments.sample.clone(),
        digest: arguments.digest.clone(),
        model_memory: arguments.model_memory.map(|bytes| bytes as u64),
        access_log: arguments.access_log.clone(),
        tuner: wiring::tuner(arguments.threads, arguments.workers),
        scoring,
    }
}

/// Returns the service name of the server's spans: the service of this replica, or `drisse`.
fn service(arguments: &Serve) -> String {
    let service = arguments.replica.as_deref().and_then(|replica| replica.split('/').nth(1));
    service.unwrap_or("drisse").to_owned()
}

/// Runs the server until a signal stops it.
async fn serve(server: ScoringServer, arguments: &Serve, output: Output) -> Result<ExitCode> {
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut terminal_closed = pin!(terminal::closed()?);
    let mut code = ExitCode::SUCCESS;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping: answering the requests under way"),
            () = &mut terminal_closed => tracing::info!("stopping, because the terminal was closed"),
            _ = interrupt.recv() => {
                printer::note("stopping: answering the requests under way (again to stop at once)");
                code = ExitCode::from(INTERRUPTED);
            }
        }
    };
    let mut again = on(SignalKind::interrupt())?;
    let stopped_twice = async {
        again.recv().await;
        again.recv().await;
    };
    let (arguments, endpoints) = (arguments.clone(), server.endpoints().clone());
    let ready = move |models: &[_]| match &arguments.replica {
        // Users do not read the log of a replica for a command to paste.
        Some(replica) => tracing::info!(replica, "ready"),
        None => banner::print(&arguments, &endpoints, models, output),
    };
    tokio::select! {
        result = server.run(ready, stop) => result?,
        () = stopped_twice => {
            // Killed at once: ONNX Runtime crashes if the process exits during a run.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
    Ok(code)
}

fn on(kind: SignalKind) -> Result<Signal> {
    Ok(signal(kind).context("cannot wait for signals")?)
}
