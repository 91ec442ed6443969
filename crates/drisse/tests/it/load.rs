//! Load on an endpoint over keep-alive connections, with every answer checked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<Failure>>>,
    threads: Vec<JoinHandle<()>>,
}

/// A request that was not answered with 200.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) at: Instant,
    pub(crate) what: String,
}

/// The results of a load.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) answered: u64,
    pub(crate) failures: Vec<Failure>,
}

/// A request: the host to connect to and the bytes to send.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) host: String,
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    /// Builds a `/score` request from a service's endpoint, a key and a body.
    pub(crate) fn new(uri: &str, key: Option<&str>, body: &str) -> Self {
        let (host, path) = parts(uri);
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: {host}\r\n{key}content-length: {length}\r\n\r\n{body}");
        Self { host: host.to_owned(), bytes: head.into_bytes() }
    }

    pub(crate) fn get(uri: &str) -> Self {
        let (host, path) = parts(uri);
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        Self { host: host.to_owned(), bytes: head.into_bytes() }
    }

    /// Sends the request on a new connection, and returns status and body.
    pub(crate) fn send(&self) -> Result<(u16, String), String> {
        Connection::open(&self.host)?.send(&self.bytes)
    }
}

/// Splits a URI into host and path.
fn parts(uri: &str) -> (&str, &str) {
    let rest = uri.strip_prefix("http://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}

/// A keep-alive connection.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    /// Whether the server announced `connection: close`.
    pub(crate) closing: bool,
    /// Whether the last answer had a `Retry-After` header.
    pub(crate) retry_after: bool,
}

impl Connection {
    pub(crate) fn open(host: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(host).map_err(|error| format!("connect: {error}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        Ok(Self { stream: BufReader::new(stream), closing: false, retry_after: false })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(u16, String), String> {
        self.retry_after = false;
        let failed = |error: std::io::Error| format!("broken: {error}");
        self.stream.get_mut().write_all(bytes).map_err(failed)?;
        let mut line = String::new();
        if self.stream.read_line(&mut line).map_err(failed)? == 0 {
            return Err("closed without an answer".to_owned());
        }
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).map_err(failed)?;
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            self.closing |= header == "connection: close";
            self.retry_after |= header.starts_with("retry-after:");
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).map_err(failed)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

impl Load {
    /// Starts `connections` clients that repeat the request until [`Self::end`].
    pub(crate) fn start(connections: usize, request: &Request) -> Self {
        let (stop, answered, failures) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Self { stop, answered, failures, threads: vec![] };
        for _ in 0..connections {
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            let (failures, request) = (Arc::clone(&load.failures), request.clone());
            load.threads.push(std::thread::spawn(move || {
                let mut connection = None;
                while !stop.load(SeqCst) {
                    let sent = match connection.take() {
                        Some(connection) => Ok(connection),
                        None => Connection::open(&request.host),
                    };
                    let sent = sent.and_then(|mut open: Connection| {
                        let answer = open.send(&request.bytes)?;
                        connection = Some(open).filter(|open| !open.closing);
                        Ok(answer)
                    });
                    match sent {
                        Ok((200, _)) => drop(answered.fetch_add(1, SeqCst)),
                        Ok((status, body)) => fail(&failures, format!("{status} {body}")),
                        Err(what) => fail(&failures, what),
                    }
                }
            }));
        }
        load
    }

    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }

    /// Waits until `count` more requests are answered.
    pub(crate) fn more(&self, count: u64) {
        let (from, began) = (self.answered(), Instant::now());
        while self.answered() < from + count {
            assert!(
                began.elapsed() < crate::workspace::PATIENCE,
                "no more answers: {:?}",
                self.failures.lock()
            );
            std::thread::yield_now();
        }
    }

    pub(crate) fn end(self) -> Seen {
        self.stop.store(true, SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.failures.lock().unwrap().clone();
        Seen { answered: self.answered.load(SeqCst), failures }
    }
}

fn fail(failures: &Mutex<Vec<Failure>>, what: String) {
    failures.lock().unwrap().push(Failure { at: Instant::now(), what });
    // Avoids a tight loop while the endpoint is down.
    std::thread::park_timeout(Duration::from_millis(1));
}
