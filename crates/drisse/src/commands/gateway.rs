//! `drisse gateway`: the gateway, to which the control plane passes the listening sockets over standard input.

use crate::cli;
use crate::error::Result;
use crate::logs;
use crate::wiring::VERSION;
use anyhow::Context;
use drisse_gateway::{Config, Gateway};
use drisse_net::trace::Exporter;
use drisse_net::{Build, Listener, Tls, bind_unix, pass_descriptors, receive_descriptors};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long unfinished requests may take when the gateway stops: as long as those of a scoring server.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

pub(crate) fn run(arguments: &cli::Gateway) -> Result<ExitCode> {
    logs::write_to(&arguments.log_file)?;
    drisse_net::keep_memory_private();
    let listeners = listeners().context("standard input passes no listening socket")?;
    let address = listeners[0].local_addr().context("cannot use the listening socket")?;
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls::open(certificate, key).context("cannot serve HTTPS")?),
        _ => None,
    };
    let admin = bind_unix(&arguments.admin).context("cannot serve the admin socket")?;
    let passing = bind_unix(&arguments.pass).context("cannot pass the listening sockets")?;
    let copies = listeners.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>();
    let copies = copies.context("cannot pass the listening sockets")?;
    let pass = move || {
        let copies: Vec<_> = copies.iter().map(AsFd::as_fd).collect();
        if let Err(error) = pass_descriptors(&passing, &copies) {
            tracing::error!("cannot pass the listening sockets: {error}");
        }
    };
    std::thread::Builder::new().name("pass".to_owned()).spawn(pass).context("cannot start a thread")?;
    let exporter = Exporter::from_environment("drisse-gateway")?;
    let nonce = arguments.gateway.rsplit('/').next().unwrap_or_default();
    let config = Config {
        listeners: listeners.into_iter().map(Listener::Tcp).collect(),
        admin: Listener::Unix(admin),
        tls,
        routes: arguments.routes.clone(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        traces: exporter.as_ref().map(Exporter::traces),
        drain_timeout: DRAIN_TIMEOUT,
        idle_timeout: arguments.idle_timeout,
        identity: serde_json::json!({
            "server": VERSION,
            "build": Build::current(VERSION).to_string(),
            "pid": std::process::id(),
            "nonce": nonce,
            "address": address.to_string(),
        }),
    };
    drisse_core::crash_point("the gateway has its sockets");
    let gateway = Gateway::new(config).context("cannot start the gateway")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        // A signal that is caught no longer ends the process.
        let _hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
        let stop = async {
            terminate.recv().await;
        };
        let exporting = exporter.map(Exporter::start);
        let ended = gateway.run(stop).await.context("the gateway failed");
        if let Some(exporting) = exporting {
            exporting.finish().await;
        }
        ended
    });
    // A change of routes may still wait for the disk. It was not acknowledged, so it may be dropped.
    runtime.shutdown_background();
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the listening sockets, that of the gateway's address first. A control plane of an earlier build gives one socket
/// as standard input.
fn listeners() -> std::io::Result<Vec<TcpListener>> {
    let input = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let listeners = match input.local_addr() {
        Ok(_) => vec![input],
        Err(_) => receive_descriptors(&input)?.into_iter().map(TcpListener::from).collect(),
    };
    listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
    Ok(listeners)
}
