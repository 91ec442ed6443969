//! Hostile or broken clients: idle connections, request heads and bodies that never end, responses that are never read,
//! floods of frames. The server's memory stays bounded, and other clients are served.

use crate::h2;
use crate::proof;
use crate::support::{Serving, root};
use crate::workspace::Workspace;
use drisse_testkit::{Request, pause_until};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const PART: &str = "3. Overload and slow clients";

/// The limit for the time of another client's request during a flood: a bound on starvation, not on speed. It is higher
/// in the quick part, which shares the machine with other programs and may test a debug build.
fn served() -> Duration {
    Duration::from_secs(if proof::whole() { 2 } else { 10 })
}

/// The server under attack.
pub(crate) struct Endpoint {
    pub(crate) host: String,
    path: String,
    key: Option<String>,
    pid: u32,
}

/// The effect of one attack.
struct Harm {
    /// Growth of the server's resident memory, in MiB.
    grown: f64,
    slowest: Duration,
    failed: Vec<String>,
}

type Attack = (&'static str, fn(&Endpoint) -> Vec<TcpStream>);

/// Attacks by name. Each returns its connections, which stay open while other clients are served.
const ATTACKS: [Attack; 13] = [
    ("10,000 idle connections", idle),
    ("500 request heads sent byte by byte", slow_heads),
    ("500 bodies of 1 MB that never arrive", slow_bodies),
    ("200 bodies of 2 MB that never arrive", large_slow_bodies),
    ("clients that never read their responses", slow_readers),
    ("bodies of 100,000 chunks of one byte", endless_chunks),
    ("request heads with 10,000 headers or of 10 MB", header_flood),
    ("bodies of one terabyte", huge_bodies),
    ("JSON nested 5,000,000 levels deep", deep_json),
    ("HTTP/2: 20,000 requests that are reset immediately", h2::rapid_reset),
    ("HTTP/2: 50,000 SETTINGS and PING frames", h2::settings_flood),
    ("HTTP/2: a request head of endless CONTINUATION frames", h2::continuation_flood),
    ("HTTP/2: responses with a flow-control window of zero", h2::no_window),
];

impl Endpoint {
    /// The head of a scoring request with these further `headers`; the body follows it.
    pub(crate) fn head(&self, headers: &str) -> String {
        let key = self.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        format!("POST {} HTTP/1.1\r\nhost: h\r\n{key}{headers}\r\n", self.path)
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.host).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    /// Writes the bytes, until the server closes the connection or no longer reads (a timeout of 5 s).
    pub(crate) fn push(stream: &mut TcpStream, bytes: &[u8]) {
        // Ignores errors: the server may refuse to read the rest.
        let _ = stream.write_all(bytes);
    }

    /// The server's resident memory, in MiB.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// Attacks the server while another client sends one request after the other.
    fn under(&self, attack: fn(&Self) -> Vec<TcpStream>) -> Harm {
        let sample = std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap();
        let request = Request::new(&format!("http://{}{}", self.host, self.path), self.key(), &sample);
        let before = self.resident();
        let over = AtomicBool::new(false);
        let (mut grown, mut slowest, mut failed) = (0.0_f64, Duration::ZERO, vec![]);
        std::thread::scope(|scope| {
            let attacking = scope.spawn(|| {
                let open = attack(self);
                over.store(true, SeqCst);
                open
            });
            let mut left = 20;
            while left > 0 {
                // Twenty more requests once the attack has opened all its connections.
                left -= u32::from(over.load(SeqCst));
                let began = Instant::now();
                match request.send() {
                    Ok((200, _)) => {}
                    other => failed.push(format!("{other:?}")),
                }
                slowest = slowest.max(began.elapsed());
                grown = grown.max(self.resident() - before);
                pause_until(Instant::now() + Duration::from_millis(2));
            }
            drop(attacking.join().unwrap());
        });
        Harm { grown, slowest, failed }
    }
}

fn idle(endpoint: &Endpoint) -> Vec<TcpStream> {
    let count = if proof::whole() { 10_000 } else { 2_000 };
    // Stops early if this process may not open more files.
    (0..count).map_while(|_| TcpStream::connect(&endpoint.host).ok()).collect()
}

fn slow_heads(endpoint: &Endpoint) -> Vec<TcpStream> {
    let mut open: Vec<_> = (0..500).map(|_| endpoint.connect()).collect();
    for byte in endpoint.head("x-slow: 1\r\n").as_bytes().iter().take(20) {
        open.iter_mut().for_each(|stream| Endpoint::push(stream, &[*byte]));
    }
    open
}

fn slow_bodies(endpoint: &Endpoint) -> Vec<TcpStream> {
    bodies_that_never_come(endpoint, 500, 1_000_000)
}

fn large_slow_bodies(endpoint: &Endpoint) -> Vec<TcpStream> {
    bodies_that_never_come(endpoint, 200, 2_000_000)
}

fn bodies_that_never_come(endpoint: &Endpoint, count: usize, length: usize) -> Vec<TcpStream> {
    let begin = |_| {
        let mut stream = endpoint.connect();
        Endpoint::push(
            &mut stream,
            (endpoint.head(&format!("content-length: {length}\r\n")) + "{").as_bytes(),
        );
        stream
    };
    (0..count).map(begin).collect()
}

/// A `/score` body with `count` rows.
fn rows(count: usize) -> String {
    let row = format!("[{}]", ["1"; 64].join(","));
    format!("{{\"data\":[{}]}}", vec![row; count].join(","))
}

fn slow_readers(endpoint: &Endpoint) -> Vec<TcpStream> {
    // The response to 2,000 rows has about 450 KB.
    let body = rows(2_000);
    let request = endpoint.head(&format!("content-length: {}\r\n", body.len())) + &body;
    let begin = |_| {
        let mut stream = endpoint.connect();
        // Several requests on each connection, and no response is read.
        (0..4).for_each(|_| Endpoint::push(&mut stream, request.as_bytes()));
        stream
    };
    let count = if proof::whole() { 200 } else { 40 };
    (0..count).map(begin).collect()
}

fn endless_chunks(endpoint: &Endpoint) -> Vec<TcpStream> {
    let chunks = "1\r\n \r\n".repeat(100_000);
    let begin = |_| {
        let mut stream = endpoint.connect();
        Endpoint::push(&mut stream, (endpoint.head("transfer-encoding: chunked\r\n") + &chunks).as_bytes());
        stream
    };
    let mut open: Vec<_> = (0..20).map(begin).collect();
    // Some bodies end: their responses show that the server has read everything.
    for stream in open.iter_mut().take(5) {
        Endpoint::push(stream, b"0\r\n\r\n");
        refused(stream, &["400"]);
    }
    open
}

fn header_flood(endpoint: &Endpoint) -> Vec<TcpStream> {
    let many: String = (0..10_000).map(|nth| format!("x-{nth}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(10 << 20));
    let begin = |nth: usize| {
        let mut stream = endpoint.connect();
        Endpoint::push(
            &mut stream,
            endpoint.head(if nth.is_multiple_of(2) { &many } else { &long }).as_bytes(),
        );
        refused(&mut stream, &["431"]);
        stream
    };
    (0..20).map(begin).collect()
}

fn huge_bodies(endpoint: &Endpoint) -> Vec<TcpStream> {
    let begin = |_| {
        let mut stream = endpoint.connect();
        Endpoint::push(&mut stream, (endpoint.head("content-length: 1000000000000\r\n") + "{").as_bytes());
        refused(&mut stream, &["413"]);
        stream
    };
    (0..50).map(begin).collect()
}

fn deep_json(endpoint: &Endpoint) -> Vec<TcpStream> {
    let body = format!("{{\"data\":{}", "[".repeat(5_000_000));
    let begin = |_| {
        let mut stream = endpoint.connect();
        let head = endpoint.head(&format!("content-length: {}\r\n", body.len()));
        Endpoint::push(&mut stream, (head + &body).as_bytes());
        refused(&mut stream, &["400"]);
        stream
    };
    (0..10).map(begin).collect()
}

/// Checks that the server answered with one of these statuses, or closed the connection.
fn refused(stream: &mut TcpStream, statuses: &[&str]) {
    let mut start = [0; 12];
    match stream.read_exact(&mut start) {
        Ok(()) => {
            let text = String::from_utf8_lossy(&start).into_owned();
            assert!(statuses.iter().any(|status| text.ends_with(status)), "{text}");
        }
        // The server closed the connection while the client still wrote: then the response is lost.
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "the server neither answered nor closed");
        }
    }
}

fn try_all(endpoint: &Endpoint, place: &str) {
    for (name, attack) in ATTACKS {
        let harm = endpoint.under(attack);
        let figure = format!(
            "+{:.0} MiB; other requests: slowest {:.0} ms, {} failed",
            harm.grown.max(0.0),
            harm.slowest.as_secs_f64() * 1e3,
            harm.failed.len()
        );
        assert!(harm.failed.is_empty(), "{name} {place}: {:?}", harm.failed);
        let limit = format!("256 MiB, {} s, 0 failed", served().as_secs());
        let held = harm.grown < 256.0 && harm.slowest < served();
        proof::holds(PART, &format!("{name}, {place}"), figure, limit, held);
    }
}

#[test]
fn at_the_scoring_server_no_flood_takes_its_memory_or_keeps_others_out() {
    let _machine = proof::alone();
    let serving = Serving::start(&["examples/digits/digits.onnx", "--listen", "127.0.0.1:0"]);
    let host = serving.url().trim_start_matches("http://").to_owned();
    try_all(
        &Endpoint { host, path: "/score".to_owned(), key: None, pid: serving.child.id() },
        "at the scoring server",
    );
}

#[test]
fn at_the_gateway_no_flood_takes_its_memory_or_keeps_others_out() {
    let _machine = proof::alone();
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", "examples/digits/digits.onnx", "--max-wait", "10s"]);
    let uri = deployed["scoring_uri"].as_str().unwrap().trim_start_matches("http://").to_owned();
    let (host, path) = uri.split_at(uri.find('/').unwrap());
    let key = deployed["primary_key"].as_str().map(str::to_owned);
    let pid = u32::try_from(workspace.pid("gateway").unwrap()).unwrap();
    try_all(&Endpoint { host: host.to_owned(), path: path.to_owned(), key, pid }, "at the gateway");
}
