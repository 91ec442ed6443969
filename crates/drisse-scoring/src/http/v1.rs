//! `POST /v1/models/NAME:predict`: KServe's V1 protocol, and TensorFlow Serving's REST API.

use super::Call;
use super::reply::Reply;
use crate::score::{Request, score};
use drisse_core::{Inputs, Result};
use drisse_wire::v1::{AnswerSink, Layout, decode};
use std::sync::Arc;

pub(super) async fn predict(call: Call<'_>) -> Result<Reply> {
    let (inputs, layout) = decode(&call.body.bytes, &call.model.signature)?;
    answer(call, inputs, layout).await
}

/// Scores inputs, and answers with all outputs in rows or columns.
pub(super) async fn answer(call: Call<'_>, inputs: Inputs, layout: Layout) -> Result<Reply> {
    let Call { app, model, deadline, stages, .. } = call;
    let outputs = (0..model.signature.outputs.len()).collect();
    let sink = AnswerSink::new(Arc::clone(&model.signature), layout);
    let request = Request { inputs, outputs, deadline, stages, sink };
    let (answer, not_finite) = score(app, model, request).await?.finish();
    model.metrics.not_finite.inc_by(not_finite);
    Ok(Reply::json(answer))
}
