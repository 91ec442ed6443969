//! `POST /v2/models/NAME/infer`: the Open Inference Protocol, tensors as JSON, or as bytes after the JSON.

use super::Call;
use super::reply::Reply;
use crate::score::sooner;
use drisse_core::{Error, Result};
use drisse_wire::v2::{AnswerSink, decode, decode_raw};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

/// The length of the JSON if tensors in binary follow it, in bytes.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

pub(super) async fn infer(call: Call<'_>) -> Result<Reply> {
    let Call { mut scoring, head, body } = call;
    let (regions, signature) = (scoring.app.regions(), &scoring.model.runner.signature);
    let request = match json_length(&head.headers, body.bytes.len())? {
        None => decode(&body.bytes, &[], &regions, signature),
        Some(0) => decode_raw(&body.bytes, signature),
        Some(length) => decode(&body.bytes[..length], &body.bytes[length..], &regions, signature),
    }?;
    scoring.deadline = sooner(scoring.deadline, request.timeout);
    let sink = AnswerSink::new(Arc::clone(&scoring.model.parts), request.id.as_deref(), request.forms);
    let answer = scoring.score(request.inputs, request.outputs, sink).await?.finish();
    scoring.model.runner.metrics.not_finite.inc_by(answer.not_finite);
    let Some(length) = answer.json_len else { return Ok(Reply::json(answer.body)) };
    Ok(Reply::bytes(answer.body).header(JSON_LENGTH, HeaderValue::from(length)))
}

fn json_length(headers: &HeaderMap, body: usize) -> Result<Option<usize>> {
    let Some(given) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let length = given.to_str().ok().and_then(|text| text.trim().parse().ok());
    let length = length.filter(|&length: &usize| length <= body);
    let refused = || {
        Error::invalid(format!(
            "Inference-Header-Content-Length is not a length within the body's {body} bytes"
        ))
    };
    length.ok_or_else(refused).map(Some)
}
