//! A small HTTP client: each request opens a connection of its own, over TCP, TLS or a Unix socket.

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustix::fs::{FileType, Mode, OFlags};
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The largest response body that is read: 64 MiB. Drisse's documents are much smaller.
const MAX_ANSWER: usize = 64 << 20;

/// Percent-encodes text for a path segment or a query value (RFC 3986, section 2.1).
pub fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encoded).collect()
}

/// The address of a server.
#[derive(Clone, Debug)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Http(String),
    /// `HOST:PORT` over TLS; this configuration verifies the server's certificate.
    Https(String, Arc<rustls::ClientConfig>),
}

/// A bidirectional byte stream.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection could not be opened.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: String,
        /// The error of the operating system or of TLS.
        source: std::io::Error,
    },
    /// The request could not be sent, or its response not be read.
    #[error("the request to {address} failed: {why}")]
    Broken {
        /// The address.
        address: String,
        /// The reason.
        why: String,
    },
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: &'a str,
    /// A key or token, sent as `Authorization: Bearer`.
    pub bearer: Option<&'a str>,
    /// The body. If it is not empty, `Content-Type` is `application/json` unless `headers` says otherwise.
    pub body: Bytes,
    /// More headers.
    pub headers: HeaderMap,
}

/// The writing end of a [`written`] body.
struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = Ok(Bytes::copy_from_slice(bytes));
        self.0.blocking_send(chunk).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `write` on a thread of its own and returns the body that it produces, and a handle to the error of `write`, if
/// any. `write` blocks while the body is sent more slowly than it is written. Requires a Tokio runtime.
pub fn written<E: Send + 'static>(
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
) -> (impl Body<Data = Bytes, Error = io::Error> + Send + 'static, JoinHandle<Option<E>>) {
    let (chunks, mut body) = mpsc::channel::<io::Result<Bytes>>(4);
    let writing = tokio::task::spawn_blocking(move || {
        let written = write(&mut Chunks(chunks.clone()));
        // A truncated body must not look complete.
        if written.is_err() {
            let _ = chunks.blocking_send(Err(io::ErrorKind::BrokenPipe.into()));
        }
        written.err()
    });
    let body = stream::poll_fn(move |context| body.poll_recv(context));
    (StreamBody::new(body.map_ok(Frame::data)), writing)
}

impl<'a> Ask<'a> {
    /// Returns a `GET` request.
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, bearer: None, body: Bytes::new(), headers: HeaderMap::new() }
    }

    /// Returns a request with a body.
    pub fn send(method: Method, path: &'a str, body: impl Into<Bytes>) -> Self {
        Self { method, path, bearer: None, body: body.into(), headers: HeaderMap::new() }
    }

    /// Replaces the headers of this request.
    pub fn with(self, headers: HeaderMap) -> Self {
        Self { headers, ..self }
    }
}

impl Address {
    /// Returns the address of the Unix socket at `path`.
    pub fn unix(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }

    /// Parses `unix:PATH` with an absolute path, or `http://HOST:PORT`; returns `None` for anything else.
    ///
    /// ```
    /// use drisse_net::http::Address;
    ///
    /// let address = Address::parse("http://127.0.0.1:8000").expect("an address");
    /// assert_eq!(address.host(), "127.0.0.1:8000");
    /// assert!(Address::parse("127.0.0.1").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<Self> {
        match (text.strip_prefix("unix:"), text.strip_prefix("http://")) {
            (Some(path), _) if path.starts_with('/') => Some(Self::unix(Path::new(path))),
            (_, Some(host)) if host.contains(':') && !host.contains('/') => Some(Self::Http(host.to_owned())),
            _ => None,
        }
    }

    /// Opens a connection. Sets no time limit; dropping the future closes the connection.
    ///
    /// # Errors
    /// Returns [`HttpError::Connect`] if the connection or its TLS handshake fails.
    pub async fn connect(&self) -> Result<Box<dyn Connection>, HttpError> {
        let failed = |source| HttpError::Connect { address: self.to_string(), source };
        Ok(match self {
            Self::Unix(path) => Box::new(connect_unix(path).await.map_err(failed)?),
            Self::Http(host) => Box::new(over_tcp(host).await.map_err(failed)?),
            Self::Https(host, config) => {
                let name = host.rsplit_once(':').map_or(&**host, |(name, _)| name);
                let name = name.trim_matches(['[', ']']).to_owned();
                let name = name.try_into().map_err(|error| failed(std::io::Error::other(error)))?;
                let stream = over_tcp(host).await.map_err(failed)?;
                let tls = tokio_rustls::TlsConnector::from(Arc::clone(config));
                Box::new(tls.connect(name, stream).await.map_err(failed)?)
            }
        })
    }

    /// Returns the value of the `Host` header for this address.
    pub fn host(&self) -> &str {
        match self {
            Self::Unix(_) => "localhost",
            Self::Http(host) | Self::Https(host, _) => host,
        }
    }

    /// Sends a request and returns the response with its body still unread. Sets no time limit.
    ///
    /// # Errors
    /// Returns an [`HttpError`] if the connection cannot be opened or breaks before the response begins.
    pub async fn open(&self, ask: Ask<'_>) -> Result<Response<Incoming>, HttpError> {
        let body = Full::new(ask.body.clone());
        self.send(self.request(ask, body)?).await
    }

    /// Returns a request with the head of `ask` and this body.
    fn request<B>(&self, ask: Ask<'_>, body: B) -> Result<Request<B>, HttpError> {
        let mut request = Request::builder().method(ask.method).uri(ask.path).header(HOST, self.host());
        if let Some(bearer) = ask.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        if !ask.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let mut request = request.body(body).map_err(|error| self.broken(&error))?;
        request.headers_mut().extend(ask.headers);
        Ok(request)
    }

    async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, HttpError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| self.broken(&error))?;
        // The connection's task ends with the response.
        #[expect(clippy::disallowed_methods, reason = "the task ends with its connection")]
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }

    /// Sends a request with the body that `write` produces while it is sent (see [`written`]), in place of `ask.body`, and
    /// reads the whole response: its status and its body. Also returns the error of `write`, if any: a server may respond
    /// before it has read everything.
    pub async fn upload<E: Send + 'static>(
        &self,
        ask: Ask<'_>,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
    ) -> (Result<(u16, Bytes), HttpError>, Option<E>) {
        let (body, writing) = written(write);
        let answer = async { self.read(self.send(self.request(ask, body)?).await?).await };
        (answer.await, writing.await.ok().flatten())
    }

    /// Sends a request and returns the status and the whole body of the response.
    ///
    /// # Errors
    /// Returns an [`HttpError`] if no whole response arrives, or if its body is over 64 MiB.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<(u16, Bytes), HttpError> {
        self.read(self.open(ask).await?).await
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<(u16, Bytes), HttpError> {
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.broken(&*error))?;
        Ok((status, body.to_bytes()))
    }

    fn broken(&self, error: &dyn fmt::Display) -> HttpError {
        HttpError::Broken { address: self.to_string(), why: error.to_string() }
    }
}

/// Connects to a Unix socket. Does not follow a symbolic link at `path`: the serving process may be able to write to
/// the socket's folder, and must not redirect clients to another socket.
///
/// # Errors
/// Returns an error if `path` is not a socket, or if no process listens on it.
pub async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    UnixSocket::new(path).connect().await
}

/// A Unix socket for many connections. Its path is looked up once, on a blocking thread. Later connections use the
/// descriptor and do not wait for a disk.
#[derive(Debug)]
pub struct UnixSocket {
    path: PathBuf,
    found: Mutex<Option<Arc<OwnedFd>>>,
}

impl UnixSocket {
    /// Returns a handle for the socket at `path`, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), found: Mutex::default() }
    }

    /// Opens a connection, as [`connect_unix`] does. Requires a tokio runtime.
    ///
    /// # Errors
    /// Returns the errors of [`connect_unix`].
    pub async fn connect(&self) -> io::Result<UnixStream> {
        let known = self.found().clone();
        let found = match known {
            Some(found) => found,
            None => {
                let path = self.path.clone();
                let found = tokio::task::spawn_blocking(move || find_socket(&path)).await;
                Arc::clone(self.found().insert(Arc::new(found.map_err(io::Error::other)??)))
            }
        };
        // By descriptor: this is the socket that was checked, even if another file has replaced it at the path.
        let connected = UnixStream::connect(format!("/proc/self/fd/{}", found.as_raw_fd())).await;
        if connected.is_err() {
            // A server that restarts creates a new socket at this path.
            *self.found() = None;
        }
        connected
    }

    fn found(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_socket(path: &Path) -> io::Result<OwnedFd> {
    let there = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&there)?.st_mode).is_socket() {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the file is not a socket"));
    }
    Ok(there)
}

/// Connects over TCP, without delaying small messages until earlier ones are acknowledged.
///
/// # Errors
/// Returns the system's error.
pub async fn over_tcp(host: &str) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Http(host) => write!(f, "http://{host}"),
            Self::Https(host, _) => write!(f, "https://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_in_the_place_of_a_socket_leads_nowhere() {
        let folder = std::env::temp_dir().join(format!("drisse-link-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [socket, link, file] = ["socket", "link", "file"].map(|name| folder.join(name));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        std::fs::write(&file, "").unwrap();
        assert!(connect_unix(&socket).await.is_ok());
        for other in [&link, &file] {
            let refused = connect_unix(other).await.unwrap_err();
            assert_eq!(refused.to_string(), "the file is not a socket");
        }
        assert_eq!(connect_unix(&folder.join("none")).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
