//! Encodes spans in OTLP (protobuf). Each span is appended to a buffer when it ends, so that only bytes are kept.
//!
//! Source: <https://github.com/open-telemetry/opentelemetry-proto/blob/v1.7.0/opentelemetry/proto/trace/v1/trace.proto>

/// `SPAN_KIND_INTERNAL`.
pub(super) const INTERNAL: u8 = 1;
/// `SPAN_KIND_SERVER`.
pub(super) const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;
/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`, and W3C's flag of a sampled trace.
const FLAGS: u32 = 0x101;
/// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const REMOTE: u32 = 0x200;

/// The value of an attribute.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Text.
    Text(&'a str),
    /// An integer.
    Number(i64),
}

/// A span. Times are in nanoseconds since 1970.
pub(super) struct Span<'a> {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: Option<u64>,
    pub(super) remote_parent: bool,
    pub(super) state: &'a str,
    pub(super) name: &'a str,
    pub(super) kind: u8,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) attributes: &'a [(&'a str, Value<'a>)],
    pub(super) failed: Option<&'a str>,
}

impl Span<'_> {
    /// Appends the span as an element of `ScopeSpans.spans`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        message(out, 2, |out| {
            bytes(out, 1, &self.trace.to_be_bytes());
            bytes(out, 2, &self.id.to_be_bytes());
            bytes(out, 3, self.state.as_bytes());
            if let Some(parent) = self.parent {
                bytes(out, 4, &parent.to_be_bytes());
            }
            bytes(out, 5, self.name.as_bytes());
            number(out, 6, self.kind.into());
            fixed64(out, 7, self.start);
            fixed64(out, 8, self.end);
            for (key, value) in self.attributes {
                attribute(out, 9, key, *value);
            }
            if let Some(why) = self.failed {
                message(out, 15, |out| {
                    bytes(out, 2, why.as_bytes());
                    number(out, 3, ERROR);
                });
            }
            let flags = FLAGS | if self.remote_parent { REMOTE } else { 0 };
            key(out, 16, 5);
            out.extend_from_slice(&flags.to_le_bytes());
        });
    }
}

/// Encodes a `Resource`, which says which program the spans come from.
pub(super) fn resource(attributes: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in attributes {
        attribute(&mut out, 1, name, Value::Text(value));
    }
    out
}

/// Encodes an `ExportTraceServiceRequest` from an encoded [`resource`], the `version` of this program, and encoded
/// spans ([`Traces::take`](super::Traces::take)).
pub(super) fn request(resource: &[u8], version: &str, spans: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(resource.len() + spans.len() + 64);
    message(&mut out, 1, |out| {
        bytes(out, 1, resource);
        message(out, 2, |out| {
            message(out, 1, |out| {
                bytes(out, 1, b"drisse");
                bytes(out, 2, version.as_bytes());
            });
            out.extend_from_slice(spans);
        });
    });
    out
}

fn attribute(out: &mut Vec<u8>, tag: u32, name: &str, value: Value<'_>) {
    message(out, tag, |out| {
        bytes(out, 1, name.as_bytes());
        message(out, 2, |out| match value {
            // A field of a `oneof` is written even if it is empty or 0.
            Value::Text(text) => message(out, 1, |out| out.extend_from_slice(text.as_bytes())),
            Value::Number(value) => number(out, 3, value.cast_unsigned()),
        });
    });
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes the tag of a field: its number and wire type.
fn key(out: &mut Vec<u8>, tag: u32, wire: u32) {
    varint(out, u64::from(tag << 3 | wire));
}

fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        message(out, tag, |out| out.extend_from_slice(value));
    }
}

fn number(out: &mut Vec<u8>, tag: u32, value: u64) {
    key(out, tag, 0);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, tag: u32, value: u64) {
    key(out, tag, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a field with the length and the bytes that `body` writes.
fn message(out: &mut Vec<u8>, tag: u32, body: impl FnOnce(&mut Vec<u8>)) {
    key(out, tag, 2);
    let start = out.len();
    out.push(0);
    body(out);
    let length = out.len() - start - 1;
    if let Some(short) = u8::try_from(length).ok().filter(|&short| short < 0x80) {
        out[start] = short;
        return;
    }
    let mut encoded = Vec::new();
    varint(&mut encoded, length as u64);
    out.splice(start..=start, encoded);
}
