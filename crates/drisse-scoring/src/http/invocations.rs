//! `POST /invocations`: MLflow's scoring server, and SageMaker's containers.

use super::reply::Reply;
use super::{Call, v1};
use drisse_core::Result;
use drisse_wire::invocations::{Format, decode};
use hyper::header::CONTENT_TYPE;

pub(super) async fn invoke(call: Call<'_>) -> Result<Reply> {
    let content_type = call.head.headers.get(CONTENT_TYPE).and_then(|given| given.to_str().ok());
    let (inputs, layout) =
        decode(&call.body.bytes, Format::of(content_type)?, &call.scoring.model.runner.signature)?;
    v1::answer(call.scoring, inputs, layout).await
}
