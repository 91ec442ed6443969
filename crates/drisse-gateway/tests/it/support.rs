//! A gateway on a free port, replicas that are threads on Unix sockets, and a client that sends any bytes.

use drisse_gateway::{Config, Gateway};
use drisse_net::{Listener, bind_tcp, bind_unix};
use drisse_testkit::{Connection, ServerThread, post};
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument, RouteReplica, RouteRevision};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// One end of a connection.
pub(crate) type Peer<S = UnixStream> = Connection<S>;

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    // Before the folder, so that the server ends first.
    _server: ServerThread,
    folder: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = tcp.local_addr().unwrap();
        let config = Config {
            idle_timeout: Duration::from_secs(75),
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
        let _server = ServerThread::start(|stopped| gateway.run(stopped));
        Self { address, _server, folder }
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
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{body}");
        let answer = Peer::unix(&self.socket("admin")).unwrap().send(request).unwrap();
        (answer.status, answer.body)
    }

    pub(crate) fn connect(&self) -> Peer<TcpStream> {
        Peer::tcp(self.address).unwrap()
    }

    /// Sends a request on a connection of its own; returns the head and the body of the answer.
    pub(crate) fn post(&self, path: &str, headers: &str, body: &str) -> (String, String) {
        let mut peer = self.connect();
        peer.write(post(path, headers, body));
        peer.message()
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
