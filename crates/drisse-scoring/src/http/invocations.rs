//! `POST /invocations`: MLflow's scoring server, and SageMaker's containers.

use super::reply::Reply;
use super::{Call, v1};
use drisse_core::Result;
use drisse_wire::invocations::{Format, decode};
use drisse_wire::score::Body;
use hyper::header::CONTENT_TYPE;
use std::sync::Arc;

pub(super) async fn invoke(call: Call<'_>) -> Result<Reply> {
    let content_type = call.head.headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok());
    let runner = Arc::clone(&call.scoring.model.runner);
    let Body { inputs, layout, ignored } =
        decode(&call.body.bytes, Format::of(content_type)?, &runner.signature)?;
    Ok(v1::answer(call.scoring, inputs, layout).await?.without_columns(&ignored, &runner.metrics))
}
