//! An exchange over gRPC: converts messages from and to protobuf's JSON, using the descriptors of the .proto files.

use crate::exchange::Exchange;
use crate::server::{Answer, Server};
use crate::tensors::values;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use drisse_net::http::Address;
use drisse_wire::grpc::{DESCRIPTORS, Frame, INFERENCE, frame, packed_frame, take_frame};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, TE};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use std::io::Read;
use std::sync::LazyLock;

/// The names of gRPC's codes, by number.
pub(crate) const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The descriptors of the .proto files, parsed once.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the embedded descriptors are valid"));

/// The longest message that is read: 64 MiB. The messages of the cases are much smaller.
const MAX_ANSWER: usize = 64 << 20;

/// Calls the method of an exchange and reads all of its responses.
pub(crate) async fn ask(server: &Server, exchange: &Exchange) -> Result<Answer, String> {
    let name = exchange.line();
    let service = POOL.get_service_by_name(INFERENCE).ok_or("the service is not in the .proto files")?;
    let method = service.methods().find(|method| method.name() == name);
    let method = method.ok_or(format!("unknown method {name}"))?;
    let mut body = BytesMut::new();
    for message in exchange.body.iter().chain(&exchange.more) {
        let message = message_of(method.input(), message)?;
        body.extend_from_slice(&if exchange.coding.is_some() {
            compressed(&message)?
        } else {
            frame(&message)
        });
    }
    let scheme = if matches!(server.grpc, Address::Https(..)) { "https" } else { "http" };
    let uri = format!("{scheme}://{}/{INFERENCE}/{name}", server.grpc.host());
    let mut request = Request::builder().method("POST").uri(uri);
    request = request.header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
    if let Some(key) = &server.key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    if let Some(coding) = &exchange.coding {
        request = request.header("grpc-encoding", coding);
    }
    for (name, value) in &exchange.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(body.freeze())).map_err(|error| error.to_string())?;
    let stream = TokioIo::new(server.grpc.connect().await.map_err(|error| error.to_string())?);
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(broken)?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the task ends with its connection, when the sender is dropped"
    )]
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(broken)?;
    let mut headers = head.headers;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    let status = code(&headers).ok_or(format!("the response ({}) has no grpc-status", head.status))?;
    let mut answers = Vec::new();
    let mut body = BytesMut::from(&*body.to_bytes());
    while let Some(frame) = take_frame(&mut body, MAX_ANSWER).map_err(|error| error.to_string())? {
        answers.push(json_of(method.output(), decompressed(frame)?));
    }
    let text = headers.get("grpc-message").map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned());
    Ok(Answer { status: status.to_owned(), headers, answers, text: text.unwrap_or_default() })
}

fn message_of(kind: MessageDescriptor, json: &str) -> Result<DynamicMessage, String> {
    let mut json = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(kind, &mut json)
        .map_err(|error| format!("the message of the case is invalid: {error}"))
}

fn compressed(message: &DynamicMessage) -> Result<Bytes, String> {
    let packed = crate::http::packed(message.encode_to_vec(), Some("gzip"));
    packed.map(|packed| packed_frame(&packed)).map_err(|error| error.to_string())
}

fn decompressed(frame: Frame) -> Result<Bytes, String> {
    if !frame.compressed {
        return Ok(frame.message);
    }
    let mut out = Vec::new();
    let read = flate2::read::GzDecoder::new(&*frame.message).read_to_end(&mut out);
    read.map(|_| out.into()).map_err(|error| format!("cannot decompress the response: {error}"))
}

/// Returns the name of a response's status code.
fn code(headers: &HeaderMap) -> Option<&'static str> {
    let code: usize = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    CODES.get(code).copied()
}

/// Converts a message to JSON, with each output's raw or typed contents as `data`.
fn json_of(kind: MessageDescriptor, message: Bytes) -> Result<Value, String> {
    let message = DynamicMessage::decode(kind, message)
        .map_err(|error| format!("cannot decode the message: {error}"))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options);
    let mut json = json.map_err(|error| error.to_string())?;
    // The messages of a stream contain the response.
    let response = if json["infer_response"].is_object() { &mut json["infer_response"] } else { &mut json };
    give_data(response)?;
    Ok(json)
}

fn give_data(response: &mut Value) -> Result<(), String> {
    let raw = response["raw_output_contents"].take();
    let raw = raw.as_array().map_or(&[][..], Vec::as_slice);
    let Some(outputs) = response.get_mut("outputs").and_then(Value::as_array_mut) else { return Ok(()) };
    if !raw.is_empty() && raw.len() != outputs.len() {
        return Err(format!("the response has {} raw contents for {} outputs", raw.len(), outputs.len()));
    }
    for (nth, output) in outputs.iter_mut().enumerate() {
        let typed = output["contents"].as_object().and_then(|contents| {
            let filled = |value: &&Value| value.as_array().is_some_and(|values| !values.is_empty());
            Some((
                contents.iter().find(|(_, value)| filled(value))?.0.clone(),
                contents.values().find(filled)?.clone(),
            ))
        });
        output["data"] = match (raw.get(nth), typed) {
            (Some(_), Some(_)) => return Err("an output has both raw and typed contents".to_owned()),
            (Some(raw), None) => values(output["datatype"].as_str().unwrap_or_default(), &bytes_of(raw)?)?,
            (None, Some((field, typed))) if field == "bytes_contents" => {
                let text = |value| Ok(Value::String(String::from_utf8_lossy(&bytes_of(value)?).into_owned()));
                typed.as_array().into_iter().flatten().map(text).collect::<Result<_, String>>()?
            }
            (None, Some((_, typed))) => typed,
            (None, None) => Value::Array(vec![]),
        };
    }
    Ok(())
}

fn bytes_of(base64: &Value) -> Result<Vec<u8>, String> {
    BASE64_STANDARD.decode(base64.as_str().unwrap_or_default()).map_err(|error| error.to_string())
}
