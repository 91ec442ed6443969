//! Request smuggling: requests that two servers could parse differently, each with another request hidden where only
//! one of the servers would see it.

use super::{count, deployed, every, host, over_tcp, over_unix, replica, request, statuses, text, zeros};
use crate::support::Serving;
use std::path::Path;

/// Ambiguous requests, each with the statuses of all responses on its connection, on which another request follows. A
/// single status means that the request was refused and the connection closed. Sections are of RFC 9112.
///
/// `\n` stands for CR LF and `␊` for a bare LF. `HOST` and `KEY` are header lines; `BODY` is a valid body of `LENGTH`
/// bytes, and `CHUNKS` the same body in chunks; `HIDDEN` is a complete request that no server may see as one.
#[rustfmt::skip]
const AMBIGUOUS: &[(&str, &str, &str, &[u16])] = &[
    // (what, section, bytes, answers)
    ("plain, to compare",               "",    "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: LENGTH\n\nBODY", &[200, 200]),
    ("plain, in chunks",                "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\nCHUNKS", &[200, 200]),
    ("length and chunks",               "6.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: LENGTH\nTransfer-Encoding: chunked\n\n0\n\nHIDDEN", &[400]),
    ("chunks and length",               "6.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\nContent-Length: 5\n\nCHUNKS", &[200]),
    ("an unsupported coding",           "6.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: gzip, chunked\n\nCHUNKS", &[501]),
    ("an unknown coding alone",         "6.3", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: xchunked\n\nHIDDEN", &[400]),
    ("chunked is not the last",         "6.3", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked, identity\n\n0\n\nHIDDEN", &[400]),
    ("chunked twice",                   "6.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\nCHUNKS", &[501]),
    ("chunked, then identity",          "6.3", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\nTransfer-Encoding: identity\n\n0\n\nHIDDEN", &[400]),
    ("chunks in HTTP/1.0",              "6.1", "POST PATH/score HTTP/1.0\nHOST\nKEY\nTransfer-Encoding: chunked\n\n0\n\nHIDDEN", &[400]),
    ("a vertical tab before chunked",   "6.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: \x0bchunked\n\n0\n\nHIDDEN", &[400]),
    ("two lengths that differ",         "6.3", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: 0\nContent-Length: LENGTH\n\nHIDDEN", &[400]),
    ("two lengths in one line",         "6.3", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: 0, LENGTH\n\nHIDDEN", &[400]),
    ("a length with a sign",            "6.2", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: +0\n\nHIDDEN", &[400]),
    ("a negative length",               "6.2", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: -1\n\nHIDDEN", &[400]),
    ("a length in hexadecimal",         "6.2", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: 0x0\n\nHIDDEN", &[400]),
    ("a length over 2^64",              "6.2", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: 18446744073709551617\n\nHIDDEN", &[400]),
    ("a space before the colon",        "5.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length : LENGTH\n\nHIDDEN", &[400]),
    ("a folded line",                   "5.2", "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: 0\nX: a\n Transfer-Encoding: chunked\n\nHIDDEN", &[400]),
    ("a bare CR in a header",           "2.2", "POST PATH/score HTTP/1.1\nHOST\nKEY\nX: a\rTransfer-Encoding: chunked\nContent-Length: 0\n\nHIDDEN", &[400]),
    ("a NUL in a header",               "5.5", "POST PATH/score HTTP/1.1\nHOST\nKEY\nX: a\0b\nContent-Length: 0\n\nHIDDEN", &[400]),
    ("a space before the first header", "2.2", "POST PATH/score HTTP/1.1\n HOST\nKEY\nContent-Length: 0\n\nHIDDEN", &[400]),
    ("no host",                         "3.2", "POST PATH/score HTTP/1.1\nKEY\nContent-Length: LENGTH\n\nBODY", &[400]),
    ("two hosts",                       "3.2", "POST PATH/score HTTP/1.1\nHOST\nHost: other\nKEY\nContent-Length: LENGTH\n\nBODY", &[400]),
    ("a host with a user in it",        "3.2", "POST PATH/score HTTP/1.1\nHost: other@localhost\nKEY\nContent-Length: LENGTH\n\nBODY", &[400]),
    ("absolute form, another host",     "3.2", "POST http://other:1PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: LENGTH\n\nBODY", &[200, 200]),
    ("a space in the target",           "3.2", "POST PATH/score HTTP/1.1 HTTP/1.1\nHOST\nKEY\nContent-Length: 0\n\nHIDDEN", &[400]),
    ("a chunk size with a prefix",      "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\n0x0\n\nHIDDEN", &[400]),
    ("a chunk size with a sign",        "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\n+0\n\nHIDDEN", &[400]),
    ("a chunk size over 2^64",          "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\n10000000000000000\n\nHIDDEN", &[400]),
    ("no chunk size",                   "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\n\n\nHIDDEN", &[400]),
    ("a chunk longer than its size",    "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\n1\n{}\n0\n\nHIDDEN", &[400]),
    ("a chunk size ends with bare LF",  "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\n0␊\nHIDDEN", &[400]),
    ("bare LF in a chunk's extension",  "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\n2;␊xx\n0\n\nHIDDEN", &[400]),
    ("a trailer that frames",           "7.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\nCHUNKED_BODY0\nContent-Length: 5\n\n", &[200, 200]),
    ("a wrong key, its body a request", "9.3", "POST PATH/score HTTP/1.1\nHOST\nAuthorization: Bearer wrong\nContent-Length: HIDLEN\n\nHIDDEN", &[401, 200]),
    ("a GET whose body is a request",   "6",   "GET PATH/sample HTTP/1.1\nHOST\nKEY\nContent-Length: HIDLEN\n\nHIDDEN", &[200, 200]),
    ("a GET with a request in a chunk", "6",   "GET PATH/sample HTTP/1.1\nHOST\nKEY\nTransfer-Encoding: chunked\n\nHIDSIZE\nHIDDEN\n0\n\n", &[200, 200]),
    ("Connection names the length",     "RFC 9110, 7.6.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nConnection: x\nConnection: content-length\nContent-Length: LENGTH\n\nBODY", &[200, 200]),
    ("an upgrade to HTTP/2",            "RFC 9113, 3.1", "POST PATH/score HTTP/1.1\nHOST\nKEY\nConnection: upgrade, http2-settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__\nContent-Length: LENGTH\n\nBODY", &[200, 200]),
    ("CONNECT",                         "3.2", "CONNECT PATH/ping HTTP/1.1\nHOST\nKEY\n\n", &[405, 200]),
];

/// The server under attack: its address, the prefix of its paths, and a valid key.
struct Victim<'a> {
    host: &'a str,
    prefix: &'a str,
    key: &'a str,
}

impl Victim<'_> {
    fn bytes(&self, row: &str) -> Vec<u8> {
        let body = zeros();
        let length = body.len();
        let chunk = format!("{length:x}\n{body}\n");
        let hidden = "POST PATH/score HTTP/1.1\nHOST\nKEY\nContent-Length: LENGTH\n\nBODY";
        let key = format!("Authorization: Bearer {}", self.key);
        let fill = |text: &str| {
            let text = text.replace("CHUNKS", "CHUNKED_BODY0\n\n").replace("CHUNKED_BODY", &chunk);
            let text =
                text.replace("PATH", self.prefix).replace("HOST", "Host: localhost").replace("KEY", &key);
            let text = text.replace("LENGTH", &length.to_string()).replace("BODY", &body);
            text.replace('\n', "\r\n").replace('␊', "\n")
        };
        let hidden = fill(hidden);
        let sizes = [("HIDLEN", hidden.len().to_string()), ("HIDSIZE", format!("{:x}", hidden.len()))];
        let row = sizes.iter().fold(fill(row), |row, (name, size)| row.replace(name, size));
        row.replace("HIDDEN", &hidden).into_bytes()
    }

    /// Sends every row on its own connection, followed by another request. Returns descriptions of unexpected results.
    /// `scored` returns how many requests the model has answered so far.
    fn attack(&self, scored: impl Fn() -> f64) -> Vec<String> {
        let next = format!("{}/sample", self.prefix);
        let next = request("GET", &next, &format!("Authorization: Bearer {}\r\n", self.key), "");
        let mut wrong = Vec::new();
        for (what, section, row, answers) in AMBIGUOUS {
            let before = scored();
            let came = over_tcp(self.host, &[self.bytes(row), next.clone()].concat());
            let score = row.starts_with("POST") && answers[0] == 200;
            let (came, ran) = (statuses(&came), scored() - before);
            if came != *answers || ran != f64::from(u8::from(score)) {
                wrong.push(format!("{what} ({section}): {came:?}, not {answers:?}; scored {ran} times"));
            }
        }
        wrong
    }
}

#[test]
fn no_request_is_smuggled_past_the_gateway() {
    let _others = crate::proof::among_others();
    let (workspace, service) = deployed();
    let admin = super::argument(&replica(&workspace).1, "--admin");
    let scored = || {
        let metrics =
            over_unix(Path::new(admin.trim_start_matches("unix:")), &request("GET", "/metrics", "", ""));
        count(&metrics, "drisse_requests_total{model=\"digits\",status=\"200\"}")
    };
    let host = host(text(&service, "scoring_uri"));
    let victim = Victim { host: &host, prefix: "/api/v1/service/digits", key: text(&service, "primary_key") };
    let wrong = victim.attack(scored);
    let claim = "The gateway forwards an ambiguous request as it has understood it, or refuses it: no replica sees a \
                 request that the gateway did not see";
    every(claim, AMBIGUOUS.len(), &wrong);
}

#[test]
fn no_request_is_smuggled_past_whatever_stands_before_a_scoring_server() {
    let _others = crate::proof::among_others();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "key\n").unwrap();
    let keys = keys.to_str().unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--keys", keys];
    let server = Serving::start(&[&[super::DIGITS], &listen[..]].concat());
    let admin = host(text(&server.document, "admin"));
    let scored = || {
        let metrics = over_tcp(&admin, &request("GET", "/metrics", "", ""));
        count(&metrics, "drisse_requests_total{model=\"digits\",status=\"200\"}")
    };
    let address = host(server.url());
    let wrong = Victim { host: &address, prefix: "", key: "key" }.attack(scored);
    let claim = "A scoring server interprets an ambiguous request as RFC 9112 says, or refuses it";
    every(claim, AMBIGUOUS.len(), &wrong);
}
