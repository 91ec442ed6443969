//! Request smuggling through HTTP/2: requests that would become different requests in HTTP/1.1, which the gateway uses
//! towards replicas.

use super::{deployed, every, host, text, zeros};
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, Fields, GOAWAY, HEADERS, RST_STREAM, block, frame, hello,
};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Headers that are added to a valid request, and the expected result. Sections are of RFC 9113. `LENGTH` stands for
/// the length of the body.
#[rustfmt::skip]
const AMBIGUOUS: &[(&str, &str, Fields<'_>, &str)] = &[
    // (what, section, headers, result)
    ("plain, to compare",          "",      &[("content-length", "LENGTH")], "200"),
    ("without a length",           "8.1.1", &[], "200"),
    ("a length less than the data", "8.1.1", &[("content-length", "1")], "reset"),
    ("a length over the data",     "8.1.1", &[("content-length", "9999")], "reset"),
    ("two lengths that differ",    "8.1.1", &[("content-length", "LENGTH"), ("content-length", "1")], "reset"),
    ("Transfer-Encoding",          "8.2.2", &[("transfer-encoding", "chunked")], "reset"),
    ("Connection",                 "8.2.2", &[("connection", "transfer-encoding")], "reset"),
    ("Upgrade",                    "8.2.2", &[("upgrade", "h2c")], "reset"),
    ("CR LF in a value",           "8.2.1", &[("x", "a\r\ntransfer-encoding: chunked")], "reset"),
    ("CR LF in a name",            "8.2.1", &[("x: a\r\ntransfer-encoding", "chunked")], "reset"),
    ("a NUL in a value",           "8.2.1", &[("x", "a\0b")], "reset"),
    ("a capital letter in a name", "8.2.1", &[("Transfer-Encoding", "chunked")], "reset"),
    ("a colon in a name",          "8.2.1", &[("transfer-encoding:", "chunked")], "reset"),
    ("a second path",              "8.3",   &[(":path", "/")], "reset"),
    ("an unknown pseudo-header",   "8.3",   &[(":x", "y")], "reset"),
];

/// Paths that would end the request line if the gateway copied them unchanged.
const PATHS: [&str; 3] =
    ["/score HTTP/1.1\r\nx: y", "/score HTTP/1.1", "/score\r\n\r\nPOST /score HTTP/1.1\r\n\r\n"];

/// Sends a request and returns its status, or `reset` if the server ended the stream or the connection.
fn send(host: &str, fields: Fields<'_>, body: &str) -> String {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(super::SILENCE)).unwrap();
    let head = frame(HEADERS, END_HEADERS, 1, &block(fields));
    let data = frame(DATA, END_STREAM, 1, body.as_bytes());
    stream.write_all(&[hello(&[]), head, data].concat()).unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return "reset".to_owned();
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).unwrap();
        match (head[3], payload.first()) {
            (RST_STREAM | GOAWAY, _) => return "reset".to_owned(),
            // Indexes of `:status` in the static table: RFC 7541, appendix A.
            (HEADERS, Some(0x88)) => return "200".to_owned(),
            (HEADERS, Some(0x8c)) => return "400".to_owned(),
            (HEADERS, other) => return format!("{other:?}"),
            _ => {}
        }
    }
}

#[test]
fn no_request_is_smuggled_through_http2() {
    let _others = crate::proof::among_others();
    let (_workspace, service) = deployed();
    let host = host(text(&service, "scoring_uri"));
    let (body, key) = (zeros(), format!("Bearer {}", text(&service, "primary_key")));
    let prefix = "/api/v1/service/digits";
    let ask = |path: &str, more: Fields<'_>| {
        let path = format!("{prefix}{path}");
        let usual = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "h"),
            (":path", &path),
            ("authorization", &key),
        ];
        send(&host, &[&usual, more].concat(), &body)
    };
    let length = body.len().to_string();
    let mut wrong = Vec::new();
    for (what, section, fields, wanted) in AMBIGUOUS {
        let fields: Vec<_> = fields
            .iter()
            .map(|&(name, value)| (name, if value == "LENGTH" { &length } else { value }))
            .collect();
        let came = ask("/score", &fields);
        if came != *wanted {
            wrong.push(format!("{what} ({section}): {came}, not {wanted}"));
        }
    }
    for path in PATHS {
        let came = ask(path, &[]);
        if came == "200" {
            wrong.push(format!("{path:?}: {came}"));
        }
    }
    let claim = "The gateway resets an HTTP/2 request that would become a different request in HTTP/1.1";
    every(claim, AMBIGUOUS.len() + PATHS.len(), &wrong);
}
