//! `POST /v2/models/NAME/infer`: the Open Inference Protocol, JSON form.

use super::body::Read;
use super::reply::Reply;
use crate::app::App;
use crate::model::Model;
use crate::score::{Request, score};
use drisse_core::Result;
use drisse_wire::v2::{AnswerSink, decode};
use std::sync::Arc;
use std::time::Instant;

pub(super) async fn infer(app: &App, model: &Arc<Model>, body: Read, deadline: Instant) -> Result<Reply> {
    let request = decode(&body.bytes, &model.signature)?;
    let sink = AnswerSink::new(Arc::clone(&model.parts), request.id.as_deref());
    let request = Request { inputs: request.inputs, outputs: request.outputs, deadline, sink };
    let (answer, not_finite) = score(app, model, request).await?.finish();
    model.metrics.not_finite.inc_by(not_finite);
    Ok(Reply::json(answer))
}
