//! `tensorflow.serving.PredictionService` and `ModelService`: TensorFlow Serving's gRPC API.

use super::{Answer, Call, unknown};
use crate::app::App;
use crate::exchange::{Counted, Scoring};
use crate::models::Model;
use drisse_core::Result;
use drisse_wire::grpc::predict::{AnswerSink, decode, metadata, model, outputs, status};
use drisse_wire::grpc::tensorflow::serving::{
    GetModelMetadataRequest, GetModelStatusRequest, ModelSpec, PredictRequest, PredictResponse,
};
use drisse_wire::grpc::{MODELS, PREDICTION, frame, parse_predict};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Instant;

pub(super) async fn answer(
    counted: &mut Counted<'_>,
    service: &str,
    call: Call,
    body: Incoming,
) -> Result<Answer> {
    let read = call.message(body).await?;
    let (app, message) = (&call.app, read.bytes.clone());
    let answer = match (service, &*call.method) {
        (PREDICTION, "Predict") => {
            let request: PredictRequest = parse_predict(message)?;
            let model = find(app, request.model_spec.as_ref(), call.deadline).await?;
            frame(&predict(counted.scoring(model, call.deadline), request).await?)
        }
        (PREDICTION, "GetModelMetadata") => {
            let request: GetModelMetadataRequest = parse_predict(message)?;
            frame(&metadata(find(app, request.model_spec.as_ref(), call.deadline).await?.described()))
        }
        (MODELS, "GetModelStatus") => {
            let request: GetModelStatusRequest = parse_predict(message)?;
            let spec = request.model_spec.as_ref();
            let found = find(app, spec, call.deadline).await?;
            let (_, wanted) = model(spec)?;
            let loaded = app.models.loaded();
            frame(&status(loaded.matching(found.name(), wanted.as_deref()).map(|version| &*version.version)))
        }
        (_, method) => return Err(unknown(&format!("{service}/{method}"))),
    };
    Ok(Answer::One(app.memory.hold_response(answer)?))
}

async fn find(app: &App, spec: Option<&ModelSpec>, deadline: Instant) -> Result<Arc<Model>> {
    let (name, version) = model(spec)?;
    app.models.find(name, version.as_deref(), deadline).await
}

async fn predict(scoring: Scoring<'_>, request: PredictRequest) -> Result<PredictResponse> {
    scoring.admit()?;
    let model = Arc::clone(&scoring.model);
    let signature = &model.runner.signature;
    let (inputs, wanted) = decode(request, signature)?;
    let outputs = outputs(&wanted, signature);
    let sink = AnswerSink::new(Arc::clone(signature), model.name(), &model.version, wanted);
    Ok(scoring.score(inputs, outputs, sink).await?.finish())
}
