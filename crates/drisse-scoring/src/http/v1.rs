//! `POST /v1/models/NAME:predict`: KServe's V1 protocol, and TensorFlow Serving's REST API.

use super::Call;
use super::reply::Reply;
use crate::exchange::Scoring;
use drisse_core::{Inputs, Result};
use drisse_wire::v1::{AnswerSink, Layout, decode};
use drisse_wire::v2::all_outputs;
use std::sync::Arc;

pub(super) async fn predict(call: Call<'_>) -> Result<Reply> {
    let (inputs, layout) = decode(&call.body.bytes, &call.scoring.model.runner.signature)?;
    answer(call.scoring, inputs, layout).await
}

/// Scores inputs, and answers with all outputs in rows or columns.
pub(super) async fn answer(scoring: Scoring<'_>, inputs: Inputs, layout: Layout) -> Result<Reply> {
    let runner = &scoring.model.runner;
    let outputs = all_outputs(&runner.signature);
    let (signature, row_outputs) = (Arc::clone(&runner.signature), Arc::clone(&runner.row_outputs));
    let rows = inputs.row_count(&signature);
    let sink = AnswerSink::new(signature, layout, row_outputs, rows, outputs.len());
    let (answer, not_finite) = scoring.score(inputs, outputs, sink).await?.finish();
    runner.metrics.not_finite.inc_by(not_finite);
    Ok(Reply::json(answer))
}
