//! The listening sockets of the gateway, which outlive its processes.

use super::{Settings, USUAL};
use crate::error::{ControlError, Result};
use drisse_net::{bind_tcp, bind_tcp_beside, take_descriptors};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// The sockets of a gateway.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// The one at the gateway's address is first.
    pub(super) listeners: Vec<TcpListener>,
    /// Whether these are the sockets that the running gateway has.
    pub(super) unchanged: bool,
    /// A note for the user.
    pub(super) note: Option<String>,
}

impl Sockets {
    /// Returns the sockets for an address, from those that the running gateway passes over the socket at `pass`. Those at
    /// which clients can go on connecting stay open, so that no connection is lost.
    pub(super) fn open(settings: &Settings, pass: Option<&Path>) -> Result<Self> {
        let passed = pass.and_then(|pass| take_descriptors(pass).ok()).unwrap_or_default();
        let mut passed: Vec<_> = passed.into_iter().map(TcpListener::from).collect();
        let wanted = settings.address.unwrap_or(USUAL);
        let count = passed.len();
        let at = |listener: &TcpListener| listener.local_addr().ok();
        let (mut listeners, mut note) = (Vec::new(), None);
        match passed.iter().position(|listener| at(listener) == Some(wanted)) {
            Some(index) => listeners.push(passed.remove(index)),
            None => {
                let beside: Vec<_> = passed
                    .iter()
                    .filter(|listener| at(listener).is_some_and(|address| address.port() == wanted.port()))
                    .collect();
                listeners.push(bind(settings, &beside, &mut note)?);
            }
        }
        let has_new = passed.len() == count;
        listeners
            .extend(passed.into_iter().filter(|listener| at(listener).is_some_and(|at| covers(wanted, at))));
        Ok(Self { unchanged: !has_new && listeners.len() == count, listeners, note })
    }
}

/// Returns whether clients of a socket at `other` could connect to one at `address` instead.
fn covers(address: SocketAddr, other: SocketAddr) -> bool {
    let is_wider = address.ip().is_unspecified() && (address.is_ipv6() || other.is_ipv4());
    address.port() == other.port() && (is_wider || address.ip() == other.ip())
}

/// Binds the address that the user chose. Without one, binds the last or the default address or, if it is in use, any
/// free port. The sockets in `beside` have the same port at other addresses.
fn bind(settings: &Settings, beside: &[&TcpListener], note: &mut Option<String>) -> Result<TcpListener> {
    let wanted = settings.address.unwrap_or(USUAL);
    let taken = match bind_tcp_beside(wanted, beside) {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if settings.chosen {
        return Err(ControlError::invalid("cannot open the gateway's address")
            .because(&taken)
            .hint("choose another one: `drisse up --gateway ADDRESS:PORT`"));
    }
    let any = SocketAddr::new(wanted.ip(), 0);
    let listener = bind_tcp(any)
        .map_err(|error| ControlError::internal("cannot open an address for the gateway").because(&error))?;
    let address = listener.local_addr().unwrap_or(any);
    *note = Some(format!("{wanted} is in use: the gateway listens on {address}"));
    Ok(listener)
}
