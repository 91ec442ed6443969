//! The listeners of the control plane: its API on a Unix socket and, if the user enabled them, its API over TCP,
//! `/metrics` and the store as a registry.

use super::TcpApi;
use crate::api::Api;
use crate::control::Control;
use crate::distribution::Distribution;
use crate::error::{ControlError, Result};
use crate::metrics::Metrics;
use drisse_net::{
    Handler, HttpServer, Limits, Listener, ListenerKind, Tls, bind_tcp, bind_unix, serve_small,
};
use drisse_wire::control::Shutdown;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Serves the control API until the control plane must stop, and returns how.
pub(super) async fn serve(
    control: &Control,
    tcp: Option<TcpApi>,
    stop: impl Future<Output = ()>,
) -> Result<Shutdown> {
    let about = &control.about;
    let unserved = |error: &(dyn std::error::Error + 'static)| {
        ControlError::internal("cannot serve the control API").because(error)
    };
    drisse_net::remove_sockets(&about.workspace.sockets, "control");
    let listener = bind_unix(&about.workspace.control_socket()).map_err(|error| unserved(&error))?;
    let (end, ends) = watch::channel(false);
    let unix = Api::local(control);
    let unix = serve_small(Listener::Unix(listener), unix, ends).map_err(|error| unserved(&error))?;
    let metrics = serve_plain("metrics", about.metrics, Metrics::new(control), end.subscribe())?;
    let registry = serve_plain("registry", about.registry, Distribution::new(control), end.subscribe())?;
    let remote = serve_tcp(control, tcp.clone())?;
    // Stored only now, because an address that cannot be bound must not be used at the next start.
    control.db.keep_setting("control_api", tcp.as_ref()).await?;
    control.db.keep_setting("metrics", about.metrics.as_ref()).await?;
    control.db.keep_setting("registry", about.registry.as_ref()).await?;
    tracing::info!(workspace = %about.workspace.root.display(), build = %about.build, "the control plane is up");
    let how = tokio::select! {
        () = unix => Shutdown::Handover,
        () = remote => Shutdown::Handover,
        () = metrics => Shutdown::Handover,
        () = registry => Shutdown::Handover,
        how = control.stop.ended() => how,
        // A signal ends only this process. Services continue, and the next control plane adopts them.
        () = stop => Shutdown::Handover,
    };
    control.stop.end(how);
    let _ = end.send(true);
    let _ = std::fs::remove_file(about.workspace.control_socket());
    Ok(how)
}

fn serve_tcp(control: &Control, tcp: Option<TcpApi>) -> Result<impl Future<Output = ()> + use<>> {
    let front = tcp.map(|tcp| -> Result<_> {
        if tcp.tls.is_none() && !tcp.address.ip().is_loopback() {
            return Err(ControlError::invalid("the control API is served beyond this machine only over TLS")
                .hint("give --control-cert and --control-key, or listen on 127.0.0.1"));
        }
        let refused = |error: &(dyn std::error::Error + 'static)| {
            ControlError::invalid("cannot serve the control API").because(error)
        };
        let tls = tcp.tls.map(|(certificate, key)| Tls::open(&certificate, &key)).transpose();
        let tls = tls.map_err(|error| refused(&error))?;
        let listener = bind_tcp(tcp.address).map_err(|error| refused(&error))?;
        let limits = Limits {
            max_connections: 256,
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            max_head: 16 << 10,
            drain_timeout: Duration::from_secs(1),
            threads: 1,
        };
        let kind = if tls.is_some() { ListenerKind::Tls } else { ListenerKind::Tcp };
        let api = Api::remote(control, kind)?;
        let listeners = vec![Listener::Tcp(listener)];
        Ok((HttpServer { listeners, tls: tls.map(Arc::new), limits, open: Default::default() }, api))
    });
    let front = front.transpose()?;
    let stop = control.stop.token();
    Ok(async move {
        let Some((front, api)) = front else { return std::future::pending().await };
        if let Err(error) = front.serve(|| api.clone(), stop.cancelled_owned()).await {
            tracing::error!("the control API over TCP ended: {error}");
        }
    })
}

/// Serves plain HTTP at an address. `what` is the name of the flag of `drisse up`. Without an address, the returned
/// future never completes.
fn serve_plain<H: Handler>(
    what: &str,
    address: Option<SocketAddr>,
    handler: H,
    ends: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + use<H>> {
    let serve = |address| -> Result<_, Box<dyn std::error::Error>> {
        Ok(serve_small(Listener::Tcp(bind_tcp(address)?), handler, ends)?)
    };
    let served = address.map(serve).transpose().map_err(|error| {
        ControlError::invalid(format!("cannot serve --{what}")).because(&*error).hint(format!(
            "choose another address: `drisse up --{what} ADDRESS:PORT`, or none: `--no-{what}`"
        ))
    })?;
    Ok(async move {
        match served {
            Some(served) => served.await,
            None => std::future::pending().await,
        }
    })
}
