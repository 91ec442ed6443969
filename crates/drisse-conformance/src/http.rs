//! An exchange over HTTP/1.1, with a connection of its own.

use crate::exchange::Exchange;
use crate::server::{Answer, Server};
use crate::tensors::{hex, values};
use bytes::Bytes;
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::{Read, Write};

/// The header with the length of a body's JSON, after which the binary part begins.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Sends the request of an exchange and reads the whole response.
pub(crate) async fn ask(server: &Server, exchange: &Exchange) -> Result<Answer, String> {
    let (method, path) = exchange.line().split_once(' ').ok_or("`send` must be METHOD PATH")?;
    let json = exchange.body.as_deref().unwrap_or_default().as_bytes();
    let binary = hex(exchange.binary.as_deref().unwrap_or_default()).ok_or("`binary` must be hexadecimal")?;
    let mut request = Request::builder().method(method).uri(path).header(HOST, server.http.host());
    if let Some(key) = &server.key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    let has = |name: &HeaderName| exchange.headers.keys().any(|key| key.eq_ignore_ascii_case(name.as_str()));
    if exchange.body.is_some() && !has(&CONTENT_TYPE) {
        let kind = if exchange.binary.is_some() { "application/octet-stream" } else { "application/json" };
        request = request.header(CONTENT_TYPE, kind);
    }
    if exchange.binary.is_some() && !has(&JSON_LENGTH) {
        request = request.header(JSON_LENGTH, json.len());
    }
    if let Some(coding) = &exchange.coding {
        request = request.header(CONTENT_ENCODING, coding);
    }
    for (name, value) in &exchange.headers {
        request = request.header(name, value);
    }
    let body =
        packed([json, &binary].concat(), exchange.coding.as_deref()).map_err(|error| error.to_string())?;
    let body = match exchange.pieces {
        None => Full::new(Bytes::from(body)).boxed(),
        Some(size) => {
            let pieces: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
            let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
            StreamBody::new(futures_util::stream::iter(frames)).boxed()
        }
    };
    let request = request.body(body).map_err(|error| error.to_string())?;
    let stream = TokioIo::new(server.http.connect().await.map_err(|error| error.to_string())?);
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    // The connection's task ends with the response.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task ends with its connection, when the sender is dropped"
    )]
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(broken)?.to_bytes();
    let body = decompressed(&head.headers, &body)?;
    let text = String::from_utf8_lossy(&body).into_owned();
    let json = json_of(&head.headers, &body);
    Ok(Answer { status: head.status.as_str().to_owned(), headers: head.headers, answers: vec![json], text })
}

/// Compresses a body with a content coding.
pub(crate) fn packed(body: Vec<u8>, coding: Option<&str>) -> std::io::Result<Vec<u8>> {
    match coding {
        Some("gzip") => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&body)?;
            encoder.finish()
        }
        Some("deflate") => {
            let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&body)?;
            encoder.finish()
        }
        // The body is not changed for a coding that no server knows.
        _ => Ok(body),
    }
}

fn decompressed(headers: &HeaderMap, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let read = match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        Some(b"gzip") => flate2::read::GzDecoder::new(body).read_to_end(&mut out),
        Some(b"deflate") => flate2::read::ZlibDecoder::new(body).read_to_end(&mut out),
        _ => return Ok(body.to_vec()),
    };
    read.map(|_| out).map_err(|error| format!("cannot decompress the response: {error}"))
}

/// Returns the response's JSON, with the tensors of its binary part as `data`, or the reason why it is malformed.
fn json_of(headers: &HeaderMap, body: &[u8]) -> Result<Value, String> {
    let cut = headers.get(JSON_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let (text, mut binary) = body
        .split_at_checked(cut.unwrap_or(body.len()))
        .ok_or("Inference-Header-Content-Length is greater than the length of the body")?;
    let mut json: Value =
        serde_json::from_slice(text).map_err(|error| format!("the response is not JSON: {error}"))?;
    let outputs = json.get_mut("outputs").and_then(Value::as_array_mut);
    for output in outputs.into_iter().flatten() {
        let Some(size) = output["parameters"]["binary_data_size"].as_u64() else { continue };
        let (bytes, rest) = usize::try_from(size)
            .ok()
            .and_then(|size| binary.split_at_checked(size))
            .ok_or(format!("binary_data_size is {size}, but {} bytes are left", binary.len()))?;
        binary = rest;
        output["data"] = values(output["datatype"].as_str().unwrap_or_default(), bytes)?;
        // Lets cases distinguish binary data from JSON, and compare it bit for bit.
        output["is_binary"] = json!(true);
        output["hex"] = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    }
    match binary.len() {
        0 => Ok(json),
        left => Err(format!("{left} bytes are left after the last output")),
    }
}
