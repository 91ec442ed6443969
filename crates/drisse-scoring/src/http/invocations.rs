//! `POST /invocations`: MLflow's scoring server, and SageMaker's containers.

use super::Call;
use super::reply::Reply;
use crate::score::{Request, score};
use drisse_core::Result;
use drisse_wire::invocations::{Format, decode};
use drisse_wire::v1::{AnswerSink, Layout};
use hyper::header::CONTENT_TYPE;
use std::sync::Arc;

pub(super) async fn invoke(call: Call<'_>) -> Result<Reply> {
    let Call { app, model, head, body, deadline } = call;
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok());
    let inputs = decode(&body.bytes, Format::of(content_type)?, &model.signature)?;
    let outputs = (0..model.signature.outputs.len()).collect();
    let sink = AnswerSink::new(Arc::clone(&model.signature), Layout::Rows);
    let (answer, not_finite) = score(app, model, Request { inputs, outputs, deadline, sink }).await?.finish();
    model.metrics.not_finite.inc_by(not_finite);
    Ok(Reply::json(answer))
}
