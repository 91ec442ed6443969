//! `tensorflow.serving.PredictionService` and `ModelService`: TensorFlow Serving's gRPC API.

use super::{Answer, Call, unknown};
use crate::app::App;
use crate::model::Model;
use crate::score::{Request, admit, score};
use drisse_core::Result;
use drisse_net::trace::Stages;
use drisse_wire::grpc::predict::{AnswerSink, decode, metadata, model, status};
use drisse_wire::grpc::tensorflow::serving::{
    GetModelMetadataRequest, GetModelStatusRequest, ModelSpec, PredictRequest, PredictResponse,
};
use drisse_wire::grpc::{MODELS, PREDICTION, frame, parse_predict};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Instant;

pub(super) async fn answer(service: &str, call: Call, body: Incoming) -> Result<Answer> {
    let read = call.message(body).await?;
    let (app, message) = (&call.app, read.bytes.clone());
    let answer = match (service, &*call.method) {
        (PREDICTION, "Predict") => {
            let request: PredictRequest = parse_predict(message)?;
            let model = find(app, request.model_spec.as_ref(), call.deadline).await?;
            let result = predict(app, &model, request, (call.deadline, call.stages.clone())).await;
            model.metrics.ended(&result, call.started);
            frame(&result?)
        }
        (PREDICTION, "GetModelMetadata") => {
            let request: GetModelMetadataRequest = parse_predict(message)?;
            frame(&metadata(find(app, request.model_spec.as_ref(), call.deadline).await?.described()))
        }
        (MODELS, "GetModelStatus") => {
            let request: GetModelStatusRequest = parse_predict(message)?;
            frame(&status(find(app, request.model_spec.as_ref(), call.deadline).await?.described()))
        }
        (_, method) => return Err(unknown(&format!("{service}/{method}"))),
    };
    Ok(Answer::One(app.hold_answer(answer)?))
}

async fn find(app: &Arc<App>, spec: Option<&ModelSpec>, deadline: Instant) -> Result<Arc<Model>> {
    let (name, version) = model(spec)?;
    app.wanted(name, deadline).await?.checked(version.as_deref())
}

async fn predict(
    app: &App,
    model: &Arc<Model>,
    request: PredictRequest,
    (deadline, stages): (Instant, Option<Arc<Stages>>),
) -> Result<PredictResponse> {
    admit(app, model, deadline)?;
    let (inputs, outputs) = decode(request, &model.signature)?;
    let sink = AnswerSink::new(Arc::clone(&model.signature), model.name.as_str(), &model.version);
    Ok(score(app, model, Request { inputs, outputs, deadline, stages, sink }).await?.finish())
}
