//! Builds a request in each protocol, byte for byte as Python clients send it.

use drisse_wire::grpc::inference::{ModelInferRequest, model_infer_request::InferInputTensor};

pub(crate) const MODEL: &str = "digits";
pub(crate) const INPUT: &str = "pixels";
pub(crate) const OUTPUT: &str = "probabilities";
pub(crate) const PIXELS: usize = 64;
pub(crate) const KEY: &str = "e1b849f9631ffc1829b2e31402373e3c";

/// A protocol of requests and responses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    V2Json,
    V2Binary,
    Score,
    Grpc,
}

impl Protocol {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "v2_json" => Self::V2Json,
            "v2_binary" => Self::V2Binary,
            "score" => Self::Score,
            "grpc" => Self::Grpc,
            _ => return None,
        })
    }
}

/// Appends the `nth` request of a connection.
pub(crate) fn write(protocol: Protocol, nth: usize, to: &mut Vec<u8>) {
    let infer = format!("/v2/models/{MODEL}/infer");
    match protocol {
        Protocol::V2Json => {
            let data = list();
            let tensor =
                format!(r#"{{"name": "{INPUT}", "shape": [1, 64], "datatype": "FP32", "data": {data}}}"#);
            post(&infer, "application/json", "", format!(r#"{{"inputs": [{tensor}]}}"#).as_bytes(), to);
        }
        Protocol::V2Binary => {
            let size = format!(r#"{{"binary_data_size":{}}}"#, 4 * PIXELS);
            let tensor =
                format!(r#"{{"name":"{INPUT}","shape":[1,64],"datatype":"FP32","parameters":{size}}}"#);
            let json = format!(r#"{{"inputs":[{tensor}],"parameters":{{"binary_data_output":true}}}}"#);
            let length = format!("Inference-Header-Content-Length: {}\r\n", json.len());
            let body = [json.as_bytes(), &bytes()].concat();
            post(&infer, "application/octet-stream", &length, &body, to);
        }
        Protocol::Score => post("/score", "application/json", "", score_body().as_bytes(), to),
        Protocol::Grpc => call(nth, to),
    }
}

/// A `/score` body with one row.
pub(crate) fn score_body() -> String {
    format!(r#"{{"data": [{}]}}"#, list())
}

/// Scaled pixel values, chosen so that Python prints 17 digits of each.
fn pixels() -> impl Iterator<Item = f32> {
    (0..PIXELS).map(|nth| (nth * 37 % 101) as f32 / 7.0 - 5.0)
}

/// The pixels as `json.dumps` prints `array.tolist()`.
fn list() -> String {
    let numbers: Vec<_> = pixels().map(|pixel| format!("{:?}", f64::from(pixel))).collect();
    format!("[{}]", numbers.join(", "))
}

fn bytes() -> Vec<u8> {
    pixels().flat_map(f32::to_le_bytes).collect()
}

/// Appends an HTTP/1.1 request as Python's `requests` sends it.
fn post(path: &str, content_type: &str, more: &str, body: &[u8], to: &mut Vec<u8>) {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: python-requests/2.32.3\r\n\
         Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n\
         Authorization: Bearer {KEY}\r\n{more}Content-Length: {length}\r\nContent-Type: {content_type}\r\n\r\n"
    );
    to.extend_from_slice(head.as_bytes());
    to.extend_from_slice(body);
}

/// The size of an HTTP/2 frame's header in bytes (RFC 9113, section 4.1).
pub(crate) const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Returns whether a frame holds the trailers, which end a gRPC response.
pub(crate) fn ends_answer(kind: u8, flags: u8) -> bool {
    kind == HEADERS && flags & END_STREAM != 0
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], to: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    to.extend_from_slice(&length[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&stream.to_be_bytes());
    to.extend_from_slice(payload);
}

/// Appends a call of `ModelInfer`; before the first call, the connection preface.
fn call(nth: usize, to: &mut Vec<u8>) {
    if nth == 0 {
        to.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frame(SETTINGS, 0, 0, &[], to);
        frame(SETTINGS, ACK, 0, &[], to);
        // The largest window, so that no later update is needed.
        frame(WINDOW_UPDATE, 0, 0, &(i32::MAX as u32 - 65_535).to_be_bytes(), to);
    }
    let stream = u32::try_from(2 * nth + 1).expect("few requests");
    let tensor = InferInputTensor {
        name: INPUT.to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, PIXELS as i64],
        ..InferInputTensor::default()
    };
    let message = ModelInferRequest {
        model_name: MODEL.to_owned(),
        inputs: vec![tensor],
        raw_input_contents: vec![bytes().into()],
        ..ModelInferRequest::default()
    };
    frame(HEADERS, END_HEADERS, stream, &fields(nth), to);
    frame(DATA, END_STREAM, stream, &drisse_wire::grpc::frame(&message), to);
}

/// The header fields of a call (RFC 7541). The first call adds them to the dynamic table; later calls refer to them
/// with one byte each.
fn fields(nth: usize) -> Vec<u8> {
    let path = format!("/{}/ModelInfer", drisse_wire::grpc::INFERENCE);
    let authorization = format!("Bearer {KEY}");
    let fields = [
        (":path", &*path),
        (":authority", "localhost:8080"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "grpc-python/1.74.0 grpc-c/48.0.0 (linux; chttp2)"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
        ("authorization", &*authorization),
    ];
    /// Entries of the static table. The dynamic table follows it, with the newest entry first.
    const STATIC: usize = 61;
    // `:method: POST` and `:scheme: http`, from the static table.
    let mut block = vec![0x83, 0x86];
    for (index, (name, value)) in fields.iter().enumerate() {
        if nth > 0 {
            block.push(0x80 | u8::try_from(STATIC + fields.len() - index).expect("few fields"));
            continue;
        }
        block.push(0x40);
        for text in [name, value] {
            // Each length fits into one byte.
            block.push(u8::try_from(text.len()).expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
