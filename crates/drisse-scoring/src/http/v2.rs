//! `POST /v2/models/NAME/infer`: the Open Inference Protocol, tensors as JSON or as bytes behind it.

use super::Call;
use super::reply::Reply;
use crate::score::{Request, score, sooner};
use crate::shared_memory::Used;
use drisse_core::{Error, Result};
use drisse_wire::v2::{AnswerSink, decode, decode_raw};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

/// How long the JSON is that tensors in binary follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(super) async fn infer(call: Call<'_>) -> Result<Reply> {
    let Call { app, model, head, body, deadline, stages } = call;
    let used = Used::by_request(app);
    let request = match json_length(&head.headers, body.bytes.len())? {
        None => decode(&body.bytes, &[], &used, &model.signature),
        Some(0) => decode_raw(&body.bytes, &model.signature),
        Some(length) => decode(&body.bytes[..length], &body.bytes[length..], &used, &model.signature),
    }?;
    let deadline = sooner(deadline, request.timeout);
    let sink = AnswerSink::new(Arc::clone(&model.parts), request.id.as_deref(), request.forms);
    let request = Request { inputs: request.inputs, outputs: request.outputs, deadline, stages, sink };
    let answer = score(app, model, request).await?.finish();
    model.metrics.not_finite.inc_by(answer.not_finite);
    let Some(length) = answer.json_len else { return Ok(Reply::json(answer.body)) };
    Ok(Reply::bytes(answer.body).header(JSON_LENGTH, HeaderValue::from(length)))
}

fn json_length(headers: &HeaderMap, body: usize) -> Result<Option<usize>> {
    let Some(given) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = given.to_str().ok().and_then(|text| text.trim().parse().ok());
    let length = length.filter(|&length: &usize| length <= body);
    let refused = || {
        Error::invalid(format!("Inference-Header-Content-Length is no length within the body's {body} bytes"))
    };
    length.ok_or_else(refused).map(Some)
}
