//! An open-loop load generator: sends requests when they are due, whether or not earlier ones have been answered.

use crate::load::{Connection, Request};
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
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        // Parking may end spuriously.
        if Instant::now() < due {
            continue;
        }
        let began = Instant::now();
        let mut connection = open.take().unwrap_or_else(|| Connection::open(&request.host).unwrap());
        let status = connection.send(&request.bytes).map_or(0, |answer| answer.0);
        answers.push(Answered { status, retry_after: connection.retry_after, took: began.elapsed() });
        open = Some(connection).filter(|open| status != 0 && !open.closing);
        // A connection that is late continues from now: requests it could not send in time are skipped.
        due = (due + interval).max(Instant::now());
    }
    answers
}
