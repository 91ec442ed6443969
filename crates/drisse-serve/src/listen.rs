//! The listeners of a server.

use crate::config::{Config, Endpoint};
use crate::error::ServeError;
use drisse_net::{Listener, bind_tcp, bind_unix};
use drisse_scoring::Listeners;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a server listens, as bound.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Endpoints {
    /// The address for scoring; a port 0 is replaced by the bound one.
    pub tcp: Option<SocketAddr>,
    /// The Unix socket for scoring.
    pub unix: Option<PathBuf>,
    /// The admin listener: `unix:PATH` or `http://ADDRESS`.
    pub admin: Option<String>,
}

/// Binds the listeners. Refuses to let other machines score without a key, unless the config allows it.
pub(crate) fn listen(config: &Config) -> Result<(Listeners, Endpoints), ServeError> {
    let is_open = config.keys.is_none() && !config.no_auth;
    if let Some(address) = config.tcp.filter(|address| is_open && !address.ip().is_loopback()) {
        return Err(ServeError::Unprotected { address });
    }
    let mut listeners = Listeners::default();
    let mut endpoints = Endpoints::default();
    if let Some(address) = config.tcp {
        let listener = bind_tcp(address)?;
        endpoints.tcp = listener.local_addr().ok();
        listeners.scoring.push(Listener::Tcp(listener));
    }
    if let Some(path) = &config.unix {
        listeners.scoring.push(Listener::Unix(bind_unix(path)?));
        endpoints.unix = Some(path.clone());
    }
    listeners.admin = match &config.admin {
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
}

/// Returns the paths of all Unix sockets.
pub(crate) fn unix_sockets(config: &Config) -> Vec<PathBuf> {
    let admin = match &config.admin {
        Some(Endpoint::Unix(path)) => Some(path.clone()),
        _ => None,
    };
    config.unix.iter().cloned().chain(admin).collect()
}
