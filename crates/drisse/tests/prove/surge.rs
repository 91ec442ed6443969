//! An open-loop load generator: sends requests when they are due, whether or not earlier ones have been answered.

use drisse_testkit::{Connection, Request, pause_until};
use std::time::{Duration, Instant};

/// The response to one request.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// 0 if the connection broke.
    pub(crate) status: u16,
    pub(crate) retry_after: bool,
    pub(crate) took: Duration,
}

/// Sends `rate` requests per second for `time`, over this many connections.
pub(crate) fn surge(request: &Request, rate: f64, time: Duration, connections: usize) -> Vec<Answered> {
    let interval = Duration::from_secs_f64(connections as f64 / rate);
    let start = Instant::now() + Duration::from_millis(50);
    let senders: Vec<_> = (0..connections)
        .map(|nth| {
            let request = request.clone();
            let first = start + interval.mul_f64(nth as f64 / connections as f64);
            let small = std::thread::Builder::new().stack_size(256 << 10);
            small.spawn(move || one(&request, first, interval, start + time)).unwrap()
        })
        .collect();
    senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
}

/// Sends one connection's requests, from `due` to `end`.
fn one(request: &Request, mut due: Instant, interval: Duration, end: Instant) -> Vec<Answered> {
    let mut answers = Vec::new();
    let mut open: Option<Connection> = None;
    while due < end {
        pause_until(due);
        let began = Instant::now();
        let mut connection = open.take().unwrap_or_else(|| request.connect().unwrap());
        let answer = request.send_on(&mut connection).ok();
        let header = |name: &str| answer.as_ref().and_then(|answer| answer.header(name));
        let retry_after = header("retry-after").is_some();
        let closes = header("connection") == Some("close");
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        answers.push(Answered { status, retry_after, took: began.elapsed() });
        open = Some(connection).filter(|_| status != 0 && !closes);
        // A connection that is late continues from now: requests it could not send in time are skipped.
        due = (due + interval).max(Instant::now());
    }
    answers
}
