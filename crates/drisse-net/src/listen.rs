//! Sockets, bound before anything is loaded, so that a taken port is told at once.

use crate::connection::Stream;
use drisse_core::step;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Connections the system holds until they are accepted.
const BACKLOG: i32 = 4096;

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// An address.
    Tcp(std::net::TcpListener),
    /// A path.
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
        }
    }
}

/// The same, registered with the runtime that accepts.
pub(crate) enum Listening {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Listening {
    pub(crate) fn new(listener: Listener) -> std::io::Result<Self> {
        match listener {
            Listener::Tcp(listener) => tokio::net::TcpListener::from_std(listener).map(Self::Tcp),
            Listener::Unix(listener) => tokio::net::UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    pub(crate) async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await?.0.into_std().map(Stream::Tcp),
            Self::Unix(listener) => listener.accept().await?.0.into_std().map(Stream::Unix),
        }
    }
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address.
    #[error("cannot listen on {address}")]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A path.
    #[error("cannot listen on unix:{}", path.display())]
    Unix {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Binds an address.
pub fn bind_tcp(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|source| BindError::Tcp { address, source })
}

/// Removes what a process that is gone left in a folder of sockets: those named `name`, or `name` and more
/// after a full stop.
pub fn remove_sockets(folder: &Path, name: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let rest = file.to_str().and_then(|file| file.strip_prefix(name));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            // Gone already is what was wanted.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Binds a path, readable by this user alone; takes the place of a socket nobody serves any more.
pub fn bind_unix(path: &Path) -> Result<std::os::unix::net::UnixListener, BindError> {
    let bind = || {
        // Only a socket that nobody serves any more is replaced: never a file, a link or a live socket.
        match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(std::io::Error::other("something that is no socket is there already"));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(std::io::Error::from(std::io::ErrorKind::AddrInUse));
            }
            _ => {}
        }
        // Made elsewhere, closed to others, then put in place: there is no moment at which it is open.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        step("a socket is made");
        std::fs::rename(&fresh, path)?;
        step("a socket is in place");
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| BindError::Unix { path: path.to_owned(), source })
}
