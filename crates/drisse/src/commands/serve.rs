//! `drisse serve`: one scoring server, complete by itself.

mod banner;
mod load;
mod surroundings;

use crate::cli::{Endpoint, Output, Serve};
use crate::failure::Failure;
use crate::traces::Exporter;
use crate::{logs, printer, wiring};
use anyhow::Context;
use banner::Endpoints;
use drisse_core::step;
use drisse_net::{AccessLog, Build, Listener, Tls, bind_tcp, bind_unix};
use drisse_scoring::{App, Config, Keys, Listeners, Server};
pub(super) use load::sample;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Interrupted from the keyboard: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// How long a server that ends waits for its access log.
const LAST_LINES: Duration = Duration::from_secs(2);

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);

pub(crate) fn run(arguments: &Serve, output: Output) -> Result<ExitCode, Failure> {
    surroundings::enter(arguments)?;
    drisse_net::keep_memory_private().context("cannot keep keys out of core dumps")?;
    if let Some(file) = &arguments.log_file {
        logs::write_to(file)?;
    }
    let sources = load::open(arguments)?;
    let keys = arguments.keys.as_deref().map(Keys::open).transpose().context("cannot serve");
    let keys = keys.map_err(|error| {
        let hint = "it has one key a line (`openssl rand -hex 32`), and is readable for the user who serves; in \
                    a container it is mounted there. Or start with --no-auth";
        Failure::from(error).hint(hint)
    })?;
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key).context("cannot serve HTTPS")?),
        _ => None,
    };
    let access_log = arguments.access_log.as_deref().map(AccessLog::open).transpose();
    let access_log = access_log.context("cannot write the access log")?.map(Arc::new);
    let exporter = Exporter::from_environment(&service(arguments))?;
    let (listeners, endpoints) = listen(arguments, keys.is_some())?;
    step("a server listens");
    let requests = access_log.clone();
    let config = Config {
        max_wait: arguments.max_wait,
        scoring_timeout: arguments.scoring_timeout,
        drain_timeout: arguments.drain_timeout,
        max_body: arguments.max_body,
        max_batch: arguments.max_batch,
        workers: Config::default().workers.max(arguments.workers.unwrap_or(1)),
        model_control: arguments.model_control,
        shared_memory: arguments.shared_memory.clone(),
        cors_origins: arguments.cors_origin.clone(),
        replica: arguments.replica.clone(),
        triton_metrics: arguments.triton_metrics,
        access_log,
        traces: exporter.as_ref().map(Exporter::traces),
        build: Build::current(env!("CARGO_PKG_VERSION")).to_string(),
        max_held: Config::default().max_held.max(2 * arguments.max_body),
        ..Config::default()
    };
    let tuner = wiring::tuner(arguments.threads, arguments.workers);
    let threads = tuner.cores.max(arguments.threads.unwrap_or(1));
    let app = App::new(config, keys).context("cannot start the server's threads")?;
    let server = Server::new(Arc::clone(&app), listeners, tls);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the server")?;

    // The server answers while models load, so that probes see it live and not ready.
    let (loaded, loading) = oneshot::channel();
    let sockets = unix_sockets(arguments);
    let in_engine = Arc::new(AtomicBool::new(false));
    let load = {
        let (arguments, app, in_engine) = (arguments.clone(), Arc::clone(&app), Arc::clone(&in_engine));
        move || {
            let result = wiring::onnx_library(arguments.onnxruntime.as_deref()).and_then(|library| {
                in_engine.store(true, SeqCst);
                load::all(&app, sources, &arguments, tuner, || wiring::onnx_engine(&library, threads))
            });
            let result = result.map(|models| {
                step("a server has its models");
                models.map(|models| match &arguments.replica {
                    // Nobody pastes from a replica's log.
                    Some(replica) => tracing::info!(replica, "ready"),
                    None => banner::print(&arguments, &endpoints, &models, output),
                })
            });
            in_engine.store(false, SeqCst);
            // The receiver is gone when the server was stopped before it was ready.
            let _ = loaded.send(result.map(drop));
        }
    };
    let loader = std::thread::Builder::new().name("loader".to_owned()).spawn(load);
    let loader = loader.context("cannot start the loader's thread")?;
    let ended = runtime.block_on(async {
        let exporting = exporter.map(Exporter::start);
        let ended = serve(server, loading).await;
        if let Some(exporting) = exporting {
            exporting.finish().await;
        }
        ended
    });
    step("a server has answered everything");
    requests.iter().for_each(|log| log.flush(LAST_LINES));
    for socket in sockets {
        // Gone already when somebody cleaned up.
        let _ = std::fs::remove_file(socket);
    }
    // ONNX Runtime does not survive that its process ends while it loads; a download does.
    if in_engine.load(SeqCst) {
        printer::note("waiting for the model that is being loaded");
        // A panic there was printed there.
        let _ = loader.join();
    }
    ended
}

/// Whose traces they are: the service's that this is a replica of, or the server's own.
fn service(arguments: &Serve) -> String {
    let service = arguments.replica.as_deref().and_then(|replica| replica.split('/').nth(1));
    service.unwrap_or("drisse").to_owned()
}

async fn serve(server: Server, loading: oneshot::Receiver<Result<(), Failure>>) -> Result<ExitCode, Failure> {
    let mut terminate = on(SignalKind::terminate())?;
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut ended = Ok(ExitCode::SUCCESS);
    let stop = async {
        tokio::select! {
            failure = load_failure(loading) => ended = Err(failure),
            _ = terminate.recv() => tracing::info!("stopping: answering the requests under way"),
            _ = interrupt.recv() => {
                printer::note("stopping: answering the requests under way (again to stop at once)");
                ended = Ok(ExitCode::from(INTERRUPTED));
            }
        }
    };
    let mut again = on(SignalKind::interrupt())?;
    let stopped_twice = async {
        again.recv().await;
        again.recv().await;
    };
    tokio::select! {
        result = server.run(stop) => {
            result.context("the server failed").map_err(|error| Failure { code: 2, ..error.into() })?;
            ended
        }
        () = stopped_twice => {
            // Nothing orderly: ONNX Runtime does not survive that its process ends around a run.
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            ended
        }
    }
}

/// Completes when loading fails, and never when it succeeds.
async fn load_failure(loading: oneshot::Receiver<Result<(), Failure>>) -> Failure {
    match loading.await {
        Ok(Ok(())) => std::future::pending().await,
        Ok(Err(failure)) => failure,
        // Its sender went without a word; the panic's place was printed.
        Err(_) => Failure { code: 2, ..Failure::new("loading the models panicked") },
    }
}

fn on(kind: SignalKind) -> Result<Signal, Failure> {
    Ok(signal(kind).context("cannot wait for signals")?)
}

fn unix_sockets(arguments: &Serve) -> Vec<PathBuf> {
    let admin = match &arguments.admin {
        Some(Endpoint::Unix(path)) => Some(path.clone()),
        _ => None,
    };
    arguments.unix.iter().cloned().chain(admin).collect()
}

/// Binds what was asked for; refuses to be open to other machines unless told to.
fn listen(arguments: &Serve, keys: bool) -> Result<(Listeners, Endpoints), Failure> {
    let tcp = arguments.listen.or_else(|| arguments.unix.is_none().then_some(DEFAULT_LISTEN));
    if let Some(address) = tcp.filter(|address| !address.ip().is_loopback() && !keys && !arguments.no_auth) {
        let message = format!("cannot listen on {address}: other machines could score without a key");
        let hint = "give --keys FILE with one key a line (`openssl rand -hex 32 > keys; chmod 600 keys`), or \
                    --no-auth to let everybody in";
        return Err(Failure::new(message).hint(hint));
    }
    let bound = || -> Result<(Listeners, Endpoints), drisse_net::BindError> {
        let mut listeners = Listeners::default();
        let mut endpoints = Endpoints::default();
        if let Some(address) = tcp {
            let listener = bind_tcp(address)?;
            endpoints.tcp = listener.local_addr().ok();
            listeners.scoring.push(Listener::Tcp(listener));
        }
        if let Some(path) = &arguments.unix {
            listeners.scoring.push(Listener::Unix(bind_unix(path)?));
            endpoints.unix = Some(path.clone());
        }
        listeners.admin = match &arguments.admin {
            None => None,
            Some(Endpoint::Unix(path)) => {
                endpoints.admin = Some(format!("unix:{}", path.display()));
                Some(Listener::Unix(bind_unix(path)?))
            }
            Some(Endpoint::Tcp(address)) => {
                let listener = bind_tcp(*address)?;
                endpoints.admin = listener.local_addr().ok().map(|address| format!("http://{address}"));
                Some(Listener::Tcp(listener))
            }
        };
        Ok((listeners, endpoints))
    };
    bound().map_err(|error| {
        let taken = std::error::Error::source(&error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_some_and(|source| source.kind() == std::io::ErrorKind::AddrInUse);
        let failure = Failure::from(anyhow::Error::new(error));
        if taken {
            failure.hint("another server listens there: choose another place, or stop that one")
        } else {
            failure
        }
    })
}
