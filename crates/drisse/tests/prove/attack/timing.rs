//! Timing attack: the time of a refusal must not reveal how much of a key was correct.

use super::host;
use super::keys::bearer;
use crate::proof::{alone, holds, whole};
use crate::support::Serving;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Measures the time of refusals on one keep-alive connection.
struct Clock(BufReader<TcpStream>);

impl Clock {
    fn refusal(&mut self, key: &str) -> Duration {
        let ask = format!("GET /sample HTTP/1.1\r\nHost: localhost\r\n{}\r\n", bearer(key));
        let began = Instant::now();
        self.0.get_mut().write_all(ask.as_bytes()).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            length =
                line.strip_prefix("content-length: ").map_or(length, |value| value.trim().parse().unwrap());
        }
        let took = began.elapsed();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        assert!(body.starts_with(b"{\"message\":\"the key is missing or wrong"));
        took
    }
}

#[test]
fn the_time_of_a_refusal_does_not_tell_how_close_a_key_was() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let key = "5f".repeat(32);
    std::fs::write(folder.path().join("keys"), format!("{key}\n")).unwrap();
    let keys = folder.path().join("keys");
    let server =
        Serving::start(&[super::DIGITS, "--listen", "127.0.0.1:0", "--keys", keys.to_str().unwrap()]);
    let stream = TcpStream::connect(host(server.url())).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut clock = Clock(BufReader::new(stream));
    // The last guess differs from the key only in its last character.
    let guesses = ["a".repeat(64), format!("{}{}", &key[..32], "a".repeat(32)), format!("{}a", &key[..63])];
    let samples = if whole() { 20_000 } else { 4_000 };
    let mut times = vec![Vec::with_capacity(samples); guesses.len()];
    for nth in 0..samples {
        // Interleaved and rotated, so that other load on the machine affects all guesses alike.
        for turn in 0..guesses.len() {
            let which = (nth + turn) % guesses.len();
            times[which].push(clock.refusal(&guesses[which]));
        }
    }
    let medians: Vec<_> = times
        .iter_mut()
        .map(|times| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64()
        })
        .collect();
    let ratio = medians[2] / medians[0];
    let half = medians[1] / medians[0];
    let claim = "Refusing a key with 63 of 64 correct characters takes as long as refusing one with none";
    let figure = format!("{ratio:.3} of the time (half correct: {half:.3}), medians of {samples}");
    let near = |ratio: f64| (0.95..=1.05).contains(&ratio);
    holds(super::PART, claim, figure, "0.95 to 1.05", near(ratio) && near(half));
}
