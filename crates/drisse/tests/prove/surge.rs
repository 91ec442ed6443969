//! More requests than can be served: sent when they are due, whether or not those before are answered.

use crate::load::Request;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    /// 0 where the connection broke.
    pub(crate) status: u16,
    pub(crate) retry_after: bool,
    pub(crate) took: Duration,
}

/// Sends `rate` requests a second for `time`, over this many connections.
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

/// One connection's requests, from `due` to `end`.
fn one(request: &Request, mut due: Instant, interval: Duration, end: Instant) -> Vec<Answered> {
    let mut answers = Vec::new();
    let mut open: Option<BufReader<TcpStream>> = None;
    while due < end {
        std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        // Parking may end early.
        if Instant::now() < due {
            continue;
        }
        let began = Instant::now();
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => BufReader::new(TcpStream::connect(&request.host).unwrap()),
        };
        let answered = ask(&mut connection, &request.bytes);
        let took = began.elapsed();
        match answered {
            Ok((status, retry_after, closing)) => {
                open = (!closing).then_some(connection);
                answers.push(Answered { status, retry_after, took });
            }
            Err(_) => answers.push(Answered { status: 0, retry_after: false, took }),
        }
        // One that is behind goes on from now: what is due waits for no answer, but is not made up for.
        due = (due + interval).max(Instant::now());
    }
    answers
}

/// Status, whether it says when to come again, whether the connection ends.
fn ask(connection: &mut BufReader<TcpStream>, bytes: &[u8]) -> std::io::Result<(u16, bool, bool)> {
    connection.get_mut().write_all(bytes)?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let (mut length, mut retry_after, mut closing) = (0, false, false);
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        retry_after |= header.starts_with("retry-after:");
        closing |= header == "connection: close";
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    connection.read_exact(&mut vec![0; length])?;
    Ok((status, retry_after, closing))
}
