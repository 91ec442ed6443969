//! `POST /score`: Azure ML's shapes and headers.
//!
//! Source: <https://learn.microsoft.com/azure/machine-learning/how-to-inference-server-http>

use super::Call;
use super::reply::Reply;
use drisse_core::{ErrorKind, Result};
use drisse_wire::score::{AnswerSink, Body, decode_body};
use drisse_wire::v2::all_outputs;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Instant;

const RUN_MS: HeaderName = HeaderName::from_static("x-ms-run-fn-exec-ms");
const RUN_FAILED: HeaderName = HeaderName::from_static("x-ms-run-function-failed");

pub(super) async fn score(call: Call<'_>) -> Result<Reply> {
    let Call { scoring, body, .. } = call;
    let runner = &scoring.model.runner;
    let Body { inputs, ignored, .. } = decode_body(&body.bytes, &runner.signature)?;
    let outputs = all_outputs(&runner.signature);
    let sink = AnswerSink::new(Arc::clone(&runner.signature));
    let began = Instant::now();
    let (answer, not_finite) = scoring.score(inputs, outputs, sink).await?.finish();
    let took = began.elapsed().as_micros();
    let took = format!("{}.{:03}", took / 1000, took % 1000);
    runner.metrics.not_finite.inc_by(not_finite);
    let reply = Reply::json(answer).header(RUN_FAILED, HeaderValue::from_static("false"));
    let reply = reply.without_columns(&ignored, &runner.metrics);
    Ok(match HeaderValue::try_from(took) {
        Ok(took) => reply.header(RUN_MS, took),
        Err(_) => reply,
    })
}

/// Adds the headers that Azure ML's server adds to every response on this path.
pub(super) fn label(headers: &mut HeaderMap, failed: Option<ErrorKind>) {
    const SERVER: HeaderName = HeaderName::from_static("x-ms-server-version");
    const VERSION: HeaderValue = HeaderValue::from_static(concat!("drisse/", env!("CARGO_PKG_VERSION")));
    headers.insert(SERVER, VERSION);
    // The model ran and failed.
    if matches!(failed, Some(ErrorKind::Rejected | ErrorKind::Internal)) {
        headers.insert(RUN_FAILED, HeaderValue::from_static("true"));
    }
}
