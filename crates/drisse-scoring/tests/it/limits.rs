//! Bytes, headers, time and connections: each is bounded, and says so.

use crate::support::{Setup, start};
use drisse_engines::fake::Script;
use drisse_net::Limits;
use drisse_scoring::Config;
use drisse_testkit::post;
use std::time::{Duration, Instant};

fn with(config: Config) -> crate::support::Running {
    Setup { config, models: vec![("echo", Script::default())], ..Setup::default() }.start()
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read_or_as_it_grows() {
    let server = with(Config { max_body: 1000, ..Config::default() });
    let announced =
        server.connect().send("POST /score HTTP/1.1\r\nhost: h\r\ncontent-length: 1001\r\n\r\n").unwrap();
    assert_eq!(announced.status, 413, "{}", announced.body);
    assert!(announced.body.contains("over the limit of 1000 bytes"));
    let mut chunked = server.connect();
    chunked.push("POST /score HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..11 {
        chunked.push(format!("64\r\n{}\r\n", " ".repeat(100)));
    }
    assert_eq!(chunked.read().unwrap().status, 413);
}

#[test]
fn bodies_together_stay_within_the_memory_set_aside() {
    let server = with(Config { max_held: 4 << 20, ..Config::default() });
    let announcing =
        |length: usize| format!("POST /score HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{{");
    let mut held = server.connect();
    held.push(announcing(2 << 20));
    server.wait_for("drisse_held_bytes ", f64::from(2 << 20));
    // A quarter stays free for bodies that announce little.
    let refused = server.connect().send(announcing(2 << 20)).unwrap();
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(server.post("/score", "{\"data\":[[1,2]]}").status, 200);
    drop(held);
    server.wait_for("drisse_held_bytes ", 0.0);
    // Of those only what has come counts.
    let mut little = server.connect();
    little.push(announcing(1000));
    server.wait_for("drisse_held_bytes ", 1.0);
}

#[test]
fn a_slow_body_is_a_408_and_its_connection_ends() {
    let server = with(Config { body_timeout: Duration::from_millis(50), ..Config::default() });
    let mut client = server.connect();
    let answer = client.send("POST /score HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\n{").unwrap();
    assert_eq!(answer.status, 408, "{}", answer.body);
    assert!(client.is_closed());
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let limits = Limits { header_timeout: Duration::from_millis(50), ..Limits::default() };
    let server = with(Config { limits, ..Config::default() });
    for start in ["", "P", "POST /score HTTP/1.1\r\nhost:", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let mut client = server.connect();
        client.push(start);
        let mut rest = Vec::new();
        client.read_rest(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "{start}");
    }
}

#[test]
fn an_idle_connection_is_closed_after_the_time_that_its_client_was_told() {
    let second = Duration::from_secs(1);
    let limits = Limits { header_timeout: second / 20, idle_timeout: second, ..Limits::default() };
    let server = with(Config { limits, ..Config::default() });
    let mut client = server.connect();
    let answer = client.post("/score", "{\"data\":[[1,2]]}");
    let began = Instant::now();
    assert_eq!(answer.header("keep-alive"), Some("timeout=1"));
    assert!(client.is_closed());
    assert!(began.elapsed() > second / 10 * 9, "{:?}", began.elapsed());
}

#[test]
fn too_many_or_too_long_headers_are_a_431() {
    let server = start();
    let many: String = (0..200).map(|nth| format!("h{nth}: 1\r\n")).collect();
    assert_eq!(server.connect().post_with("/score", &many, "{}").status, 431);
    // Far over the limit the server stops reading: its answer may be lost with the connection.
    let mut client = server.connect();
    client.push(format!("POST /score HTTP/1.1\r\nhost: h\r\nh: {}\r\n\r\n", "x".repeat(1_000_000)));
    let mut rest = Vec::new();
    client.read_rest(&mut rest);
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&rest));
}

#[test]
fn connections_over_the_limit_are_closed_and_the_others_served() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let server = with(Config { limits, ..Config::default() });
    let mut first = server.connect();
    let mut second = server.connect();
    for client in [&mut first, &mut second] {
        assert_eq!(client.post("/score", "{\"data\":[[1,2]]}").status, 200);
    }
    assert!(server.connect().is_closed());
    assert_eq!(first.post("/score", "{\"data\":[[1,2]]}").status, 200);
    assert_eq!(server.metric("drisse_connections "), 2.0);
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let server = start();
    let mut client = server.connect();
    let requests: Vec<_> =
        (0..5).map(|nth| post("/score", "", &format!("{{\"data\":[[{nth},0]]}}"))).collect();
    client.push(requests.concat());
    for nth in 0..5 {
        assert_eq!(client.read().unwrap().body, format!("{{\"X\":[[{nth}.0,0.0]]}}"));
    }
}
