//! The endpoint of a replica: where it listens, and how connections to it are opened.

mod trust;

use drisse_net::http::{Address, UnixSocket, over_tcp};
use drisse_wire::routes::RouteReplica;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

/// The stream of a connection. A single type, so that the HTTP client is compiled once and needs no dynamic dispatch.
pub(crate) type ReplicaStream = Either<UnixStream, Either<TcpStream, Box<TlsStream<TcpStream>>>>;

/// Where a replica listens.
#[derive(Debug)]
pub(crate) enum Endpoint {
    Unix(UnixSocket),
    /// `HOST:PORT`.
    Tcp(String),
    Tls(Box<TlsEndpoint>),
}

/// `HOST:PORT` and how its certificate is checked. It is built once per replica, not once per connection.
#[derive(Debug)]
pub(crate) struct TlsEndpoint {
    host: String,
    name: ServerName<'static>,
    http1: Arc<rustls::ClientConfig>,
    http2: Arc<rustls::ClientConfig>,
}

/// The HTTP version of a connection. TLS negotiates it by ALPN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
}

impl Endpoint {
    /// Creates the endpoint of a replica. Blocks, because it may read the system's CA certificates.
    ///
    /// # Errors
    /// Returns the reason if the address is not `unix:PATH` or `http(s)://HOST:PORT`, or if the certificate cannot be
    /// trusted.
    pub(crate) fn new(replica: &RouteReplica) -> Result<Self, String> {
        let RouteReplica { address, certificate, .. } = replica;
        let malformed = || format!("`{address}` is not a valid replica address");
        if let Some(host) = address.strip_prefix("https://") {
            return TlsEndpoint::new(host, certificate.as_deref()).map(|tls| Self::Tls(Box::new(tls)));
        }
        match Address::parse(address).ok_or_else(malformed)? {
            Address::Unix(path) => Ok(Self::Unix(UnixSocket::new(&path))),
            Address::Http(host) => Ok(Self::Tcp(host)),
            Address::Https(..) => Err(malformed()),
        }
    }

    /// Opens a connection, without a time limit.
    ///
    /// # Errors
    /// Returns the system's error, or the reason why the replica's certificate is not trusted.
    pub(crate) async fn connect(&self, version: HttpVersion) -> io::Result<ReplicaStream> {
        match self {
            Self::Unix(socket) => socket.connect().await.map(Either::Left),
            Self::Tcp(host) => over_tcp(host).await.map(|stream| Either::Right(Either::Left(stream))),
            Self::Tls(tls) => {
                let connected = tls.connect(version).await;
                let failed = |error: io::Error| {
                    io::Error::new(error.kind(), format!("cannot connect to https://{}: {error}", tls.host))
                };
                connected.map(|stream| Either::Right(Either::Right(stream))).map_err(failed)
            }
        }
    }
}

impl TlsEndpoint {
    fn new(host: &str, certificate: Option<&str>) -> Result<Self, String> {
        let malformed = || format!("`https://{host}` is not a valid replica address");
        let (name, port) = host.rsplit_once(':').ok_or_else(malformed)?;
        port.parse::<u16>().map_err(|_| malformed())?;
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|_| malformed())?;
        let config = match certificate {
            Some(pem) => trust::certificates(pem.as_bytes())?,
            None => trust::system()?,
        };
        let offering = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        let (http1, http2) = (offering(b"http/1.1"), offering(b"h2"));
        Ok(Self { host: host.to_owned(), name, http1, http2 })
    }

    async fn connect(&self, version: HttpVersion) -> io::Result<Box<TlsStream<TcpStream>>> {
        let config = match version {
            HttpVersion::Http1 => &self.http1,
            HttpVersion::Http2 => &self.http2,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(self.name.clone(), over_tcp(&self.host).await?).await?;
        if version == HttpVersion::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the server does not speak HTTP/2, which gRPC needs"));
        }
        Ok(Box::new(stream))
    }
}
