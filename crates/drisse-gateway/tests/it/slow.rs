//! Clients that are slow or leave do not hold a permit of a replica.

use crate::support::{Running, document};
use drisse_testkit::{pause_until, wait};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const SCORE: &str = "/api/v1/service/s/score";

/// More bytes than the sockets in between buffer.
const LONG: usize = 32 << 20;

#[test]
fn a_client_that_sends_its_body_slowly_holds_no_place() {
    let gateway = Running::start();
    let mut replica = gateway.replica("r", |mut peer| {
        while !peer.message().0.is_empty() {
            peer.answer("200 OK", "", "{}");
        }
    });
    replica.concurrency = 1;
    gateway.put(&document(1, vec![replica]));
    let mut announced = gateway.connect();
    announced.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n{{"));
    let mut chunked = gateway.connect();
    chunked
        .write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{{\r\n"));
    for _ in 0..3 {
        assert!(gateway.post(SCORE, "", "{}").0.starts_with("HTTP/1.1 200"));
    }
    chunked.write("1\r\n}\r\n0\r\n\r\n");
    assert!(chunked.message().0.starts_with("HTTP/1.1 200"));
}

#[test]
fn a_client_that_takes_its_answer_slowly_holds_no_place() {
    let gateway = Running::start();
    let long = "x".repeat(LONG);
    let mut replica = gateway.replica("r", move |mut peer| {
        loop {
            let (head, body) = peer.message();
            match &*body {
                _ if head.is_empty() => return,
                "long" => peer.answer("200 OK", "", &long),
                _ => peer.answer("200 OK", "", "{}"),
            }
        }
    });
    replica.concurrency = 1;
    gateway.put(&document(1, vec![replica]));
    let mut slow = gateway.connect();
    slow.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nlong"));
    let head = slow.head();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for _ in 0..3 {
        assert!(gateway.post(SCORE, "", "{}").0.starts_with("HTTP/1.1 200"));
    }
    let mut taken = vec![0; LONG];
    slow.take(&mut taken);
    assert!(taken.iter().all(|&byte| byte == b'x'), "nothing of it is lost");
}

#[test]
fn a_client_that_leaves_the_line_is_never_sent_on() {
    let gateway = Running::start();
    let (begun, begins) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let shared = Mutex::new((begun, gate));
    let mut replica = gateway.replica("r", move |mut peer| {
        loop {
            let (head, body) = peer.message();
            if head.is_empty() {
                return;
            }
            let shared = shared.lock().unwrap();
            shared.0.send(body).unwrap();
            shared.1.recv().unwrap();
            peer.answer("200 OK", "", "{}");
        }
    });
    replica.concurrency = 1;
    let mut routes = document(1, vec![replica]);
    routes.max_wait_ms = 20_000;
    gateway.put(&routes);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| gateway.post(SCORE, "", "first"));
        assert_eq!(begins.recv().unwrap(), "first");
        let mut leaves = gateway.connect();
        leaves.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\ngone"));
        let waiting = |count| {
            let wanted = format!("drisse_gateway_waiting{{service=\"s\"}} {count}");
            wait(&wanted, || gateway.admin("GET", "/metrics", "").1.contains(&wanted));
        };
        waiting(1);
        drop(leaves);
        waiting(0);
        let last = scope.spawn(|| gateway.post(SCORE, "", "last"));
        go.send(()).unwrap();
        assert_eq!(begins.recv().unwrap(), "last");
        go.send(()).unwrap();
        for answered in [first, last] {
            assert!(answered.join().unwrap().0.starts_with("HTTP/1.1 200"));
        }
    });
}

#[test]
fn the_connection_of_a_long_answer_is_used_again() {
    let gateway = Running::start();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let replica = gateway.replica("r", move |mut peer| {
        counted.fetch_add(1, SeqCst);
        while !peer.message().0.is_empty() {
            peer.answer("200 OK", "", &"x".repeat(1 << 20));
        }
    });
    gateway.put(&document(1, vec![replica]));
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{{}}"));
        assert_eq!(client.message().1.len(), 1 << 20);
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_answer_closes_the_connection_of_the_replica() {
    let gateway = Running::start();
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let replica = gateway.replica("r", move |mut peer| {
        peer.message();
        // An answer that never ends.
        peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        sender.lock().unwrap().send(peer.is_closed()).unwrap();
    });
    gateway.put(&document(1, vec![replica]));
    let mut client = gateway.connect();
    client.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{{}}"));
    assert!(client.head().starts_with("HTTP/1.1 200"));
    drop(client);
    assert!(received.recv().unwrap(), "the gateway closed it");
}

#[test]
fn a_few_clients_more_than_places_wait_for_a_slow_replica_also_before_its_first_answer() {
    let gateway = Running::start();
    let mut replica = gateway.replica("r", |mut peer| {
        peer.message();
        pause_until(Instant::now() + Duration::from_millis(300));
        // Then it closes the connection, without having announced it.
        peer.answer("200 OK", "", "{}");
    });
    replica.concurrency = 1;
    let mut routes = document(1, vec![replica]);
    (routes.max_wait_ms, routes.max_wait_auto) = (500, true);
    gateway.put(&routes);
    let client = || (0..2).map(|_| gateway.post(SCORE, "", "{}").0).collect::<Vec<_>>();
    let heads: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(heads.iter().all(|head| head.starts_with("HTTP/1.1 200")), "{heads:?}");
}
