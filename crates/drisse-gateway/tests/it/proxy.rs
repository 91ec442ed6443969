//! Requests and answers as clients and replicas see them.

use crate::support::{Peer, Running, document};
use drisse_testkit::{header, wait};
use drisse_wire::routes::RouteDocument;
use std::sync::mpsc;

const SCORE: &str = "/api/v1/service/s/score";

/// The digest of the key `secret`.
const SECRET: &str = "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// A replica that answers every request with its path and body.
fn echo(mut peer: Peer) {
    loop {
        let (head, body) = peer.message();
        if head.is_empty() {
            return;
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        peer.answer("200 OK", "", &format!("{path} {body}"));
    }
}

#[test]
fn a_request_reaches_the_replica_under_its_own_path_and_without_what_is_between_two_ends() {
    let gateway = Running::start();
    let (sender, received) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let replica = gateway.replica("r", move |mut peer| {
        let (head, _) = peer.message();
        sender.lock().unwrap().send(head).unwrap();
        peer.answer(
            "200 OK",
            "connection: x-secret\r\nx-secret: 1\r\nkeep-alive: timeout=5\r\nx-kept: 1\r\n",
            "{}",
        );
    });
    gateway.put(&document(1, vec![replica]));
    let headers = "connection: x-hop, keep-alive\r\nx-hop: 1\r\nte: trailers\r\nupgrade: h2c\r\nx-end: 1\r\n";
    let (answer, _) = gateway.post("/api/v1/%73ervice/s/v2/model%73/s/?a=b", headers, "{}");
    let head = received.recv().unwrap();
    assert!(head.starts_with("POST /v2/models/s?a=b HTTP/1.1\r\n"), "{head}");
    assert_eq!((header(&head, "host"), header(&head, "x-end")), (Some("h"), Some("1")));
    for gone in ["x-hop", "te", "upgrade", "keep-alive", "connection"] {
        assert_eq!(header(&head, gone), None, "{head}");
    }
    assert!(
        header(&head, "x-request-id")
            .is_some_and(|id| id.len() == 36 && id.starts_with(|c: char| c.is_ascii_hexdigit())),
        "{head}"
    );
    assert!(header(&answer, "x-kept").is_some() && header(&answer, "x-secret").is_none(), "{answer}");
}

/// More bytes than the gateway reads, of a body that announces no length, before it sends the request on.
const LONG: usize = (1 << 20) + 1;

#[test]
fn long_bodies_stream_through_both_ways_as_they_come() {
    let gateway = Running::start();
    let replica = gateway.replica("r", |mut peer| {
        peer.head();
        // The first part of the answer goes out before the last part of the body has arrived.
        let mut read = 0;
        while read < LONG {
            read += usize::from_str_radix(peer.line().trim(), 16).unwrap();
            peer.line();
        }
        peer.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        assert_eq!((peer.line(), peer.line()), ("3\r\n".to_owned(), "two\r\n".to_owned()));
        assert_eq!((peer.line(), peer.line()), ("0\r\n".to_owned(), "\r\n".to_owned()));
        peer.write("4\r\nlast\r\n0\r\n\r\n");
    });
    gateway.put(&document(1, vec![replica]));
    let mut client = gateway.connect();
    client.write(format!(
        "POST {SCORE} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{LONG:x}\r\n{}\r\n",
        "1".repeat(LONG)
    ));
    assert!(client.head().starts_with("HTTP/1.1 200"));
    assert_eq!((client.line(), client.line()), ("5\r\n".to_owned(), "first\r\n".to_owned()));
    client.write("3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!((client.line(), client.line()), ("4\r\n".to_owned(), "last\r\n".to_owned()));
}

#[test]
fn a_busy_replica_is_waited_for_and_then_503_says_when_to_come_again() {
    let gateway = Running::start();
    let (release, gate) = mpsc::channel::<()>();
    let (started, busy) = mpsc::channel();
    let shared = std::sync::Mutex::new((started, gate));
    let mut replica = gateway.replica("r", move |mut peer| {
        while !peer.message().0.is_empty() {
            let shared = shared.lock().unwrap();
            shared.0.send(()).unwrap();
            shared.1.recv().unwrap();
            peer.answer("200 OK", "", "{}");
        }
    });
    replica.concurrency = 1;
    gateway.put(&document(1, vec![replica]));
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| gateway.post(SCORE, "", "{}"));
        busy.recv().unwrap();
        let (refused, body) = gateway.post(SCORE, "", "{}");
        assert!(
            refused.starts_with("HTTP/1.1 503") && header(&refused, "retry-after") == Some("1"),
            "{refused}"
        );
        assert!(
            body.starts_with("{\"message\":\"service `s` is overloaded: no replica was free within 20"),
            "{body}"
        );
        release.send(()).unwrap();
        first.join().unwrap()
    });
    assert!(first.0.starts_with("HTTP/1.1 200"), "{first:?}");
    // The permit is granted again.
    std::thread::scope(|scope| {
        let next = scope.spawn(|| gateway.post(SCORE, "", "{}"));
        busy.recv().unwrap();
        release.send(()).unwrap();
        assert!(next.join().unwrap().0.starts_with("HTTP/1.1 200"));
    });
    let (_, metrics) = gateway.admin("GET", "/metrics", "");
    assert!(metrics.contains("drisse_gateway_requests_total{service=\"s\",status=\"5xx\"} 1"), "{metrics}");
}

#[test]
fn a_deadline_is_passed_on_and_past_it_the_answer_is_504() {
    let gateway = Running::start();
    let (sender, received) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let replica = gateway.replica("r", move |mut peer| {
        sender.lock().unwrap().send(peer.message().0).unwrap();
        // It sends nothing, and sees that the gateway gives up.
        assert!(peer.arrived().is_ok_and(<[u8]>::is_empty));
        sender.lock().unwrap().send(String::new()).unwrap();
    });
    gateway.put(&document(1, vec![replica]));
    let (answer, body) = gateway.post(SCORE, "x-request-timeout-ms: 60\r\n", "{}");
    assert!(answer.starts_with("HTTP/1.1 504") && body.contains("the deadline passed"), "{answer}{body}");
    let head = received.recv().unwrap();
    let left: u64 = header(&head, "x-request-timeout-ms").unwrap().parse().unwrap();
    assert!((1..=60).contains(&left), "{left}");
    assert_eq!(received.recv().unwrap(), "", "its connection was closed");
}

#[test]
fn a_request_the_replica_read_is_not_sent_again_and_one_it_did_not_read_is() {
    let gateway = Running::start();
    let broken = gateway.replica("broken", |mut peer| drop(peer.message()));
    gateway.put(&document(1, vec![broken]));
    let (answer, body) = gateway.post(SCORE, "", "{}");
    assert!(
        answer.starts_with("HTTP/1.1 502") && body.contains("ended while it had this request"),
        "{answer}{body}"
    );
    // The first does not listen, the second closes without reading, the third answers.
    let gone = gateway.route("gone", 100);
    let closes = gateway.replica("closes", drop);
    let good = gateway.replica("good", echo);
    gateway.put(&document(2, vec![gone, closes, good]));
    for _ in 0..20 {
        let (answer, body) = gateway.post(SCORE, "", "{}");
        assert!(answer.starts_with("HTTP/1.1 200") && body == "/score {}", "{answer}{body}");
    }
}

#[test]
fn a_connection_the_replica_closed_meanwhile_costs_no_request() {
    let gateway = Running::start();
    // Every connection answers one request and closes without saying so.
    let replica = gateway.replica("r", |mut peer| {
        peer.message();
        peer.answer("200 OK", "", "{}");
    });
    gateway.put(&document(1, vec![replica]));
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{{}}"));
        let (answer, body) = client.message();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}{body}");
    }
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let gateway = Running::start();
    let (sender, received) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let mut replica = gateway.replica("r", move |mut peer| {
        let (head, _) = peer.message();
        sender.lock().unwrap().send(()).unwrap();
        if head.contains("x-last") {
            peer.answer("200 OK", "", "{}");
        } else {
            assert!(
                peer.arrived().is_ok_and(<[u8]>::is_empty),
                "the client left, so its connection is closed"
            );
        }
    });
    replica.concurrency = 1;
    gateway.put(&RouteDocument { max_wait_ms: 20_000, ..document(1, vec![replica]) });
    let mut client = gateway.connect();
    client.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{{}}"));
    received.recv().unwrap();
    drop(client);
    let (answer, _) = gateway.post(SCORE, "x-last: 1\r\n", "{}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_replica_is_reported_as_draining_until_its_last_answer() {
    let gateway = Running::start();
    let (release, gate) = mpsc::channel::<()>();
    let (started, busy) = mpsc::channel();
    let shared = std::sync::Mutex::new((started, gate));
    let old = gateway.replica("old", move |mut peer| {
        peer.message();
        let shared = shared.lock().unwrap();
        shared.0.send(()).unwrap();
        shared.1.recv().unwrap();
        peer.answer("200 OK", "", "old");
    });
    let new = gateway.replica("new", echo);
    assert!(gateway.put(&document(1, vec![old])).draining.is_empty());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| gateway.post(SCORE, "", "{}"));
        busy.recv().unwrap();
        let next = document(2, vec![new]);
        assert_eq!(gateway.put(&next).draining, ["old"]);
        assert_eq!(gateway.put(&next).draining, ["old"], "asked again");
        assert_eq!(gateway.post(SCORE, "", "{}").1, "/score {}", "new requests go to the new one");
        release.send(()).unwrap();
        assert_eq!(first.join().unwrap().1, "old");
        wait("the end of draining", || gateway.put(&next).draining.is_empty());
    });
}

#[test]
fn keys_open_what_is_not_open_and_paths_that_lead_nowhere_say_so() {
    let gateway = Running::start();
    let replica = gateway.replica("r", echo);
    gateway.put(&RouteDocument { keys: vec![SECRET.to_owned()], ..document(1, vec![replica]) });
    let status = |path: &str, headers: &str| {
        let (answer, body) = gateway.post(path, headers, "");
        (answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), body)
    };
    let key = "authorization: Bearer secret\r\n";
    assert_eq!(status(SCORE, key).0, 200);
    let (code, body) = status(SCORE, "");
    assert!(code == 401 && body.starts_with("{\"message\":"), "{body}");
    let (code, body) = status("/v2/models/s/infer", "authorization: Bearer other\r\n");
    assert!(code == 401 && body.starts_with("{\"error\":"), "{body}");
    for open in ["/api/v1/service/s/", "/api/v1/service/s/ping", "/v2/models/s/ready"] {
        assert_eq!(status(open, "").0, 200, "{open}");
    }
    for (path, says) in [
        ("/api/v1/service/other/score", "there is no service `other`"),
        ("/v2/models/other/infer", "there is no service `other`"),
        ("/score", "there is nothing at /score: services are at"),
    ] {
        let (code, body) = status(path, key);
        assert!(code == 404 && body.contains(says), "{path}: {body}");
    }
    assert_eq!(status("/", "").0, 405);
    assert_eq!(gateway.admin("DELETE", "/routes/s", "").0, 200);
    assert_eq!(status(SCORE, key).0, 404);
}

#[test]
fn the_gateways_own_answers_have_the_ids_and_the_words_that_clients_look_for() {
    let gateway = Running::start();
    gateway.put(&RouteDocument { keys: vec![SECRET.to_owned()], ..document(1, vec![]) });
    let ids = "x-request-id: r\r\nx-ms-request-id: m\r\ntraceid: t\r\n";
    for path in [SCORE, "/api/v1/service/other/score", "/"] {
        let (head, _) = gateway.post(path, ids, "");
        let found = ["x-request-id", "x-ms-request-id", "x-ms-client-request-id", "traceid"];
        assert_eq!(found.map(|name| header(&head, name)), ["r", "m", "m", "t"].map(Some), "{head}");
        let (head, _) = gateway.post(path, "", "");
        assert_eq!(header(&head, "x-ms-request-id").map(str::len), Some(36), "{head}");
    }
    assert_eq!(header(&gateway.post("/v2/models/s/infer", ids, "").0, "x-ms-request-id"), None);
    let body = gateway.post("/v2/models/other/infer", "", "").1;
    assert!(body.contains("Request for unknown model: 'other' is not found"), "{body}");
    let options = format!("OPTIONS {SCORE} HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(gateway.connect().send(options).unwrap().status, 200, "without a key");
}

#[test]
fn ambiguous_requests_are_refused_and_never_reach_a_replica() {
    let gateway = Running::start();
    let replica = gateway.replica("r", echo);
    gateway.put(&document(1, vec![replica]));
    for bad in [
        "content-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
        "content-length: +2\r\n\r\n{}",
        "content-length: 2, 2\r\ncontent-length: 2\r\n\r\n{}",
        "transfer-encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n2x\r\n{}\r\n0\r\n\r\n",
        "x: a\r\n folded\r\ncontent-length: 2\r\n\r\n{}",
        "x y: 1\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let mut client = gateway.connect();
        client.write(format!("POST {SCORE} HTTP/1.1\r\nhost: h\r\n{bad}"));
        let head = client.head();
        assert!(head.is_empty() || head.starts_with("HTTP/1.1 4"), "{bad:?}: {head}");
    }
}
