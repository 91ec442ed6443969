//! Listening sockets. They are bound before anything is loaded, so that a port in use is reported at once.

use crate::connection::Stream;
use drisse_core::crash_point;
use rustix::net::sockopt::set_socket_reuseport;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Connections that the system queues until they are accepted.
const BACKLOG: i32 = 4096;

/// A bound, listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Returns whether only processes of this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
        }
    }
}

/// A [`Listener`] that is registered with the current runtime.
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
    /// A TCP socket cannot be bound.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// A Unix socket cannot be bound.
    #[error("cannot listen on unix:{}", path.display())]
    Unix {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Binds a TCP socket and starts to listen. Port 0 lets the system choose a port.
///
/// # Errors
/// Returns [`BindError::Tcp`] if the address is in use or does not belong to this machine.
///
/// ```
/// let listener = drisse_net::bind_tcp("127.0.0.1:0".parse().unwrap())?;
/// assert_ne!(listener.local_addr().unwrap().port(), 0);
/// # Ok::<(), drisse_net::BindError>(())
/// ```
pub fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    bind_tcp_beside(address, &[])
}

/// Does the same as [`bind_tcp`], also if sockets of this process have the same port at other addresses: `others`.
///
/// # Errors
/// Returns the errors of [`bind_tcp`].
///
/// ```
/// let local = drisse_net::bind_tcp("127.0.0.1:0".parse().unwrap())?;
/// let everywhere = (std::net::Ipv4Addr::UNSPECIFIED, local.local_addr().unwrap().port()).into();
/// assert!(drisse_net::bind_tcp(everywhere).is_err());
/// drisse_net::bind_tcp_beside(everywhere, &[&local])?;
/// # Ok::<(), drisse_net::BindError>(())
/// ```
pub fn bind_tcp_beside(address: SocketAddr, others: &[&TcpListener]) -> Result<TcpListener, BindError> {
    // The port is shared only meanwhile: no other process may bind it, too.
    let share = |shared| others.iter().try_for_each(|other| set_socket_reuseport(other, shared));
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        share(true)?;
        socket.set_reuse_port(!others.is_empty())?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_reuse_port(false)?;
        Ok(socket.into())
    };
    let bound = bind();
    let unshared = share(false).map_err(std::io::Error::from);
    bound.and_then(|socket| unshared.map(|()| socket)).map_err(|source| BindError::Tcp { address, source })
}

/// Removes the sockets that an ended process left in `folder`: those named `name` or `name.*`.
pub fn remove_sockets(folder: &Path, name: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let rest = file.to_str().and_then(|file| file.strip_prefix(name));
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            // The socket may be gone already.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Binds a Unix socket that only this user can connect to. Replaces a socket that no process listens on.
///
/// # Errors
/// Returns [`BindError::Unix`] if a process listens at `path`, if another kind of file is there, or if the socket
/// cannot be made.
pub fn bind_unix(path: &Path) -> Result<std::os::unix::net::UnixListener, BindError> {
    let bind = || {
        // Only a socket without a listening process is replaced: never a file, a link or a live socket.
        match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(std::io::Error::other("a file that is not a socket is there already"));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(std::io::Error::from(std::io::ErrorKind::AddrInUse));
            }
            _ => {}
        }
        // Made under another name, closed to other users, then renamed: the path is never open to others.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        crash_point("a socket is made");
        std::fs::rename(&fresh, path)?;
        crash_point("a socket is in place");
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|source| BindError::Unix { path: path.to_owned(), source })
}
