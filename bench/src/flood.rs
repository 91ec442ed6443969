//! A load generator with one thread that uses little CPU, so that the server has the machine. `open`: sends requests
//! when they are due, whether or not earlier ones are answered. `closed`: sends the next request on a connection as
//! soon as the previous one is answered.
//!
//! Prints its own CPU time and the duration of sending, in seconds; then, for each request, the status (0 if there was
//! no response), the delay of sending, and the time from sending to the response, both in µs.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{clock_gettime, timerfd_create, timerfd_settime};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// The time limit for requests in flight at the end; much longer than any measured server takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The epoll data of the timer; for connections it is their index.
const TIMER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// The times at which the request in flight was due and was sent.
    sent: Option<(Instant, Instant)>,
}

struct Answer {
    status: u16,
    late: Duration,
    took: Duration,
}

struct Flood {
    address: SocketAddr,
    request: Vec<u8>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    answers: Vec<Answer>,
}

impl Flood {
    fn connect(&self, nth: usize) -> Connection {
        let stream = TcpStream::connect(self.address).expect("the server accepts");
        stream.set_nodelay(true).expect("a socket");
        epoll::add(&self.epoll, &stream, EventData::new_u64(nth as u64), EventFlags::IN)
            .expect("a descriptor");
        Connection { stream, received: Vec::new(), sent: None }
    }

    fn open(&mut self) -> usize {
        let nth = self.connections.len();
        let connection = self.connect(nth);
        self.connections.push(connection);
        nth
    }

    /// Sends a request over an idle connection, and opens one if there is none.
    fn send(&mut self, due: Instant) {
        let nth = self.idle.pop().unwrap_or_else(|| self.open());
        let connection = &mut self.connections[nth];
        connection.sent = Some((due, Instant::now()));
        // Ignores errors: reading from a broken connection reports them.
        let _ = connection.stream.write_all(&self.request);
    }

    /// Reads what has arrived. Returns whether that completed a request.
    fn receive(&mut self, nth: usize) -> bool {
        let connection = &mut self.connections[nth];
        let mut bytes = [0; 16 << 10];
        let length = connection.stream.read(&mut bytes).unwrap_or(0);
        connection.received.extend_from_slice(&bytes[..length]);
        let (status, stays) = match answer(&connection.received) {
            Some((status, stays)) => (status, stays),
            None if length == 0 => (0, false),
            None => return false,
        };
        connection.received.clear();
        let sent = connection.sent.take();
        if !stays {
            self.connections[nth] = self.connect(nth);
        }
        // The server closed an idle connection, which is now open again.
        let Some((due, at)) = sent else { return false };
        self.answers.push(Answer { status, late: at - due, took: at.elapsed() });
        self.idle.push(nth);
        true
    }

    fn under_way(&self) -> bool {
        self.idle.len() < self.connections.len()
    }
}

/// Parses a response: its status, and whether the connection stays open. `None` if it is incomplete.
fn answer(received: &[u8]) -> Option<(u16, bool)> {
    let end = memchr::memmem::find(received, b"\r\n\r\n")? + 4;
    let head = str::from_utf8(&received[..end]).expect("a head").to_ascii_lowercase();
    let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    (received.len() >= end + length).then(|| (status, !head.contains("\r\nconnection: close")))
}

fn seconds(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() }
}

fn run(flood: &mut Flood, time: Duration, interval: Option<Duration>) -> Duration {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK).expect("a timer");
    epoll::add(&flood.epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN).expect("a descriptor");
    let tick = seconds(interval.unwrap_or(Duration::from_millis(100)));
    let ticks = Itimerspec { it_interval: tick, it_value: tick };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &ticks).expect("a timer");
    let begin = Instant::now();
    let end = begin + time;
    if interval.is_none() {
        (0..flood.idle.len()).for_each(|_| flood.send(Instant::now()));
    }
    let (mut next, mut events) = (begin, Vec::with_capacity(64));
    while Instant::now() < end || (flood.under_way() && Instant::now() < end + PATIENCE) {
        events.clear();
        epoll::wait(&flood.epoll, rustix::buffer::spare_capacity(&mut events), None).expect("epoll waits");
        for &Event { data, .. } in &events {
            if data.u64() == TIMER {
                rustix::io::read(&timer, &mut [0; 8]).expect("the timer has expired");
            } else if flood.receive(usize::try_from(data.u64()).expect("an index")) && interval.is_none() {
                let now = Instant::now();
                if now < end {
                    flood.send(now);
                }
            }
            // Sends every request that is due, after each event: on a busy machine the timer may be late.
            while let Some(interval) = interval.filter(|_| next <= Instant::now() && next < end) {
                flood.send(next);
                next += interval;
            }
        }
    }
    begin.elapsed().min(time)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, path, body, time, how, amount, headers @ ..] = &*arguments else {
        eprintln!("flood PORT PATH BODY SECONDS open RATE|closed CONNECTIONS ['NAME: VALUE' …]");
        return;
    };
    let number = |text: &str| -> f64 { text.parse().expect("a number") };
    let body = std::fs::read(body).expect("the body");
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}content-length: {length}\r\n\r\n");
    let mut flood = Flood {
        address: ([127, 0, 0, 1], port.parse().expect("a port")).into(),
        request: [head.into_bytes(), body].concat(),
        epoll: epoll::create(CreateFlags::CLOEXEC).expect("a descriptor"),
        connections: Vec::new(),
        idle: Vec::new(),
        answers: Vec::new(),
    };
    let interval = (how == "open").then(|| Duration::from_secs_f64(1.0 / number(amount)));
    // More connections are opened when all have a request in flight.
    let connections = if interval.is_some() { 64 } else { amount.parse().expect("a number") };
    flood.idle = (0..connections).map(|_| flood.open()).collect();
    let before = used();
    let took = run(&mut flood, Duration::from_secs_f64(number(time)), interval);
    let mut out = format!("{} {}\n", used() - before, took.as_secs_f64());
    for Answer { status, late, took } in &flood.answers {
        writeln!(out, "{status} {} {}", late.as_micros(), took.as_micros()).expect("memory");
    }
    for _ in flood.connections.iter().filter(|connection| connection.sent.is_some()) {
        out.push_str("0 0 0\n");
    }
    std::io::stdout().write_all(out.as_bytes()).expect("stdout");
}

/// Returns the CPU time of this process so far, in seconds.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of minutes")]
fn used() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
