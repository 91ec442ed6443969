//! Load on an endpoint over keep-alive connections, with every answer checked.

use crate::{Answer, Connection, found, pause_until};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients that repeat a request.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<Failure>>>,
    threads: Vec<JoinHandle<()>>,
}

/// A request that was not answered with 200.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When the failure was seen.
    pub at: Instant,
    /// The status and body, or the error.
    pub what: String,
}

/// The results of a load.
#[derive(Debug)]
pub struct Seen {
    /// The number of responses with status 200.
    pub answered: u64,
    /// All other requests.
    pub failures: Vec<Failure>,
}

/// A request: the host to connect to and the bytes to send.
#[derive(Clone, Debug)]
pub struct Request {
    /// `HOST:PORT`.
    pub host: String,
    /// Head and body.
    pub bytes: Vec<u8>,
}

impl Request {
    /// Builds a `/score` request from a service's endpoint, a key and a body.
    pub fn new(uri: &str, key: Option<&str>, body: &str) -> Self {
        let (host, path) = parts(uri);
        let key = key.map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: {host}\r\n{key}content-length: {length}\r\n\r\n{body}");
        Self { host: host.to_owned(), bytes: head.into_bytes() }
    }

    /// Builds a GET request for this URI.
    pub fn get(uri: &str) -> Self {
        let (host, path) = parts(uri);
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        Self { host: host.to_owned(), bytes: head.into_bytes() }
    }

    /// Connects to the request's host.
    ///
    /// # Errors
    /// A text, if the connection is refused.
    pub fn connect(&self) -> Result<Connection, String> {
        Connection::tcp(&*self.host).map_err(|error| format!("connect: {error}"))
    }

    /// Sends the request on an open connection, and returns the response.
    ///
    /// # Errors
    /// A text, if the connection breaks before the response is complete.
    pub fn send_on(&self, connection: &mut Connection) -> Result<Answer, String> {
        connection.send(&self.bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => "closed without an answer".to_owned(),
            _ => format!("broken: {error}"),
        })
    }

    /// Sends the request on a new connection, and returns status and body.
    ///
    /// # Errors
    /// A text, if there is no complete response.
    pub fn send(&self) -> Result<(u16, String), String> {
        let answer = self.send_on(&mut self.connect()?)?;
        Ok((answer.status, answer.body))
    }
}

/// Splits a URI into host and path.
fn parts(uri: &str) -> (&str, &str) {
    let rest = uri.strip_prefix("http://").unwrap();
    rest.split_at(rest.find('/').unwrap())
}

impl Load {
    /// Starts `connections` clients that repeat the request until [`Self::end`].
    pub fn start(connections: usize, request: &Request) -> Self {
        let (stop, answered, failures) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Self { stop, answered, failures, threads: vec![] };
        for _ in 0..connections {
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            let (failures, request) = (Arc::clone(&load.failures), request.clone());
            load.threads.push(std::thread::spawn(move || {
                let mut connection = None;
                while !stop.load(SeqCst) {
                    let open = connection.take().map_or_else(|| request.connect(), Ok);
                    let sent = open.and_then(|mut open| {
                        let answer = request.send_on(&mut open)?;
                        let closes = answer.header("connection") == Some("close");
                        connection = Some(open).filter(|_| !closes);
                        Ok((answer.status, answer.body))
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

    /// Returns the number of responses with status 200 so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }

    /// Waits until `count` more requests are answered.
    pub fn more(&self, count: u64) {
        let from = self.answered();
        let failure = || format!("no more answers: {:?}", self.failures.lock());
        found(failure, || (self.answered() >= from + count).then_some(()));
    }

    /// Stops the clients and returns the results.
    pub fn end(self) -> Seen {
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
    pause_until(Instant::now() + Duration::from_millis(1));
}
