//! `POST /score`: Azure ML's shapes.

use super::body::Read;
use super::reply::Reply;
use crate::app::App;
use crate::model::Model;
use crate::score::{Request, score as run};
use drisse_core::Result;
use drisse_wire::score::{AnswerSink, decode};
use std::sync::Arc;
use std::time::Instant;

pub(super) async fn score(app: &App, model: &Arc<Model>, body: Read, deadline: Instant) -> Result<Reply> {
    let inputs = decode(&body.bytes, &model.signature)?;
    let outputs = (0..model.signature.outputs.len()).collect();
    let sink = AnswerSink::new(Arc::clone(&model.signature));
    let (answer, not_finite) = run(app, model, Request { inputs, outputs, deadline, sink }).await?.finish();
    model.metrics.not_finite.inc_by(not_finite);
    Ok(Reply::json(answer))
}
