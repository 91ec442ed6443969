//! A gateway on a free port, replicas that are threads on Unix sockets, and a client that sends any bytes.

use drisse_gateway::{Config, Gateway};
use drisse_net::{Listener, bind_tcp, bind_unix};
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument, RouteReplica, RouteRevision};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Longer than any answer takes on a busy machine; a hang fails the test instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tcp.local_addr().unwrap();
        let config = Config {
            traces: None,
            listeners: vec![Listener::Tcp(tcp)],
            admin: Listener::Unix(bind_unix(&folder.path().join("admin")).unwrap()),
            tls: None,
            routes: folder.path().join("routes"),
            threads: 2,
            drain_timeout: Duration::from_secs(5),
            identity: serde_json::json!({ "nonce": "0123456789ab" }),
        };
        let gateway = Gateway::new(config).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(gateway.run(async { drop(stopped.await) })).unwrap();
        });
        Self { address, folder, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a replica that calls `serve` with each connection, and returns its route.
    pub(crate) fn replica(&self, name: &str, serve: impl Fn(Peer) + Send + Sync + 'static) -> RouteReplica {
        let listener = UnixListener::bind(self.socket(name)).unwrap();
        std::thread::spawn(move || {
            let serve = std::sync::Arc::new(serve);
            for stream in listener.incoming() {
                let (serve, peer) = (std::sync::Arc::clone(&serve), Peer::new(stream.unwrap()));
                std::thread::spawn(move || serve(peer));
            }
        });
        self.route(name, 4)
    }

    pub(crate) fn route(&self, name: &str, concurrency: u32) -> RouteReplica {
        let address = format!("unix:{}", self.socket(name).display());
        RouteReplica { id: name.to_owned(), address, concurrency, ..RouteReplica::default() }
    }

    /// Puts the routes of the service `s` in force.
    pub(crate) fn put(&self, document: &RouteDocument) -> RouteAcknowledgement {
        let body = serde_json::to_string(document).unwrap();
        let (status, answer) = self.admin("PUT", "/routes/s", &body);
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub(crate) fn admin(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut peer = Peer::new(UnixStream::connect(self.socket("admin")).unwrap());
        let length = body.len();
        peer.write(&format!("{method} {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{body}"));
        let (head, body) = peer.read();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    pub(crate) fn connect(&self) -> Peer<TcpStream> {
        Peer::new(TcpStream::connect(self.address).unwrap())
    }

    /// Sends a request on a connection of its own; returns the head and the body of the answer.
    pub(crate) fn post(&self, path: &str, headers: &str, body: &str) -> (String, String) {
        let mut peer = self.connect();
        let length = body.len();
        peer.write(&format!(
            "POST {path} HTTP/1.1\r\nhost: h\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ));
        peer.read()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

/// The routes of the service `s` to these replicas of one revision.
pub(crate) fn document(generation: u64, replicas: Vec<RouteReplica>) -> RouteDocument {
    let revision = RouteRevision { revision: 1, weight: 1, replicas, ..RouteRevision::default() };
    RouteDocument {
        service: "s".to_owned(),
        generation,
        max_wait_ms: 200,
        scoring_timeout_ms: 20_000,
        revisions: vec![revision],
        ..RouteDocument::default()
    }
}

/// One end of a connection.
pub(crate) struct Peer<S = UnixStream>(BufReader<S>);

pub(crate) trait Stream: Read + Write {
    fn patience(&self);
}

impl Stream for UnixStream {
    fn patience(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

impl Stream for TcpStream {
    fn patience(&self) {
        self.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

impl<S: Stream> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        stream.patience();
        Self(BufReader::new(stream))
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// The head of a message; empty if the other side closed the connection.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).unwrap_or(0) == 0 {
                return String::new();
            }
        }
        head
    }

    /// A whole message with a content length.
    pub(crate) fn read(&mut self) -> (String, String) {
        let head = self.head();
        let length = header(&head, "content-length").map_or(0, |value| value.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// Fills `bytes` with the next ones of the connection.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) {
        self.0.read_exact(bytes).unwrap();
    }

    /// Waits until the other side closes the connection or sends something; returns whether it closed.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(<[u8]>::is_empty)
    }

    pub(crate) fn answer(&mut self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        self.write(&format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}"));
    }
}

/// A header's value.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
