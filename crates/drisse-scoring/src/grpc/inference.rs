//! `inference.GRPCInferenceService`: the Open Inference Protocol.

use super::messages::Messages;
use super::{Answer, Call, end, repository, unknown};
use crate::app::App;
use crate::body::ResponseBody;
use crate::exchange::{Counted, Scoring};
use crate::models::Model;
use crate::score::sooner;
use crate::shared_memory::{Region, no_cuda_region, unknown_cuda};
use bytes::Bytes;
use drisse_core::Result;
use drisse_wire::grpc::inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse,
    CudaSharedMemoryUnregisterResponse, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
    ModelStatisticsResponse, ModelStreamInferResponse, ServerLiveResponse, ServerMetadataResponse,
    ServerReadyResponse, SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse, system_shared_memory_status_response::RegionStatus,
};
use drisse_wire::grpc::{AnswerSink, config, decode, frame, metadata, parse, statistics};
use futures_util::stream::unfold;
use hyper::body::{Frame, Incoming};
use std::sync::Arc;
use std::time::Instant;

pub(super) const SERVICE: &str = drisse_wire::grpc::INFERENCE;

pub(super) async fn answer(counted: &mut Counted<'_>, call: Call, body: Incoming) -> Result<Answer> {
    if call.method == "ModelStreamInfer" {
        let messages = call.messages(body);
        return Ok(Answer::Stream(stream(call.app, messages)));
    }
    let read = call.message(body).await?;
    let (app, message) = (&call.app, read.bytes.clone());
    let answer = match &*call.method {
        "ServerLive" => frame(&ServerLiveResponse { live: true }),
        "ServerReady" => frame(&ServerReadyResponse { ready: app.is_ready() }),
        "ServerMetadata" => frame(&ServerMetadataResponse {
            name: "drisse".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: app.extensions().into_iter().map(str::to_owned).collect(),
        }),
        "ModelReady" => {
            let ModelReadyRequest { name, version } = parse(message)?;
            frame(&ModelReadyResponse { ready: app.is_ready() && is_served(app, &name, &version) })
        }
        "ModelMetadata" => {
            let ModelMetadataRequest { name, version } = parse(message)?;
            let model = find(app, &name, &version, call.deadline).await?;
            let loaded = app.models.loaded();
            let versions = loaded.versions(model.name()).iter().map(|version| &*version.version);
            frame(&metadata(model.described(), versions))
        }
        "ModelConfig" => {
            let ModelConfigRequest { name, version } = parse(message)?;
            let config = config(find(app, &name, &version, call.deadline).await?.described());
            frame(&ModelConfigResponse { config: Some(config) })
        }
        "ModelStatistics" => frame(&model_statistics(app, parse(message)?, call.deadline).await?),
        "ModelInfer" => frame(&infer(counted, parse(message)?, call.deadline).await?),
        method @ ("RepositoryIndex" | "RepositoryModelLoad" | "RepositoryModelUnload") => {
            app.check_model_control()?;
            repository::answer(app, method, message).await?
        }
        "SystemSharedMemoryStatus" => {
            let SystemSharedMemoryStatusRequest { name } = parse(message)?;
            frame(&shared_memory_status(app, &name)?)
        }
        "SystemSharedMemoryRegister" => {
            let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = parse(message)?;
            app.shared_memory.register(&name, &key, offset, byte_size)?;
            frame(&SystemSharedMemoryRegisterResponse {})
        }
        "SystemSharedMemoryUnregister" => {
            let SystemSharedMemoryUnregisterRequest { name } = parse(message)?;
            app.shared_memory.unregister(Some(&*name).filter(|name| !name.is_empty()));
            frame(&SystemSharedMemoryUnregisterResponse {})
        }
        // No engine uses a GPU yet: there are no regions.
        "CudaSharedMemoryStatus" => {
            let CudaSharedMemoryStatusRequest { name } = parse(message)?;
            if !name.is_empty() {
                return Err(unknown_cuda(&name));
            }
            frame(&CudaSharedMemoryStatusResponse::default())
        }
        "CudaSharedMemoryRegister" => {
            let CudaSharedMemoryRegisterRequest { name, .. } = parse(message)?;
            return Err(no_cuda_region(&name));
        }
        "CudaSharedMemoryUnregister" => frame(&CudaSharedMemoryUnregisterResponse {}),
        other => return Err(unknown(&format!("{SERVICE}/{other}"))),
    };
    Ok(Answer::One(app.memory.hold_response(answer)?))
}

async fn find(app: &App, name: &str, version: &str, deadline: Instant) -> Result<Arc<Model>> {
    app.models.find(name, given(version), deadline).await
}

fn is_served(app: &App, name: &str, version: &str) -> bool {
    app.models.check_served(name, given(version)).is_ok()
}

/// Returns a version that a request asks for; `None` if it names none.
fn given(version: &str) -> Option<&str> {
    Some(version).filter(|version| !version.is_empty())
}

async fn model_statistics(
    app: &App,
    request: ModelStatisticsRequest,
    deadline: Instant,
) -> Result<ModelStatisticsResponse> {
    let one = |model: &Arc<Model>| statistics(model.described(), model.runner.metrics.statistics());
    let model_stats = match &*request.name {
        "" => app.models.loaded().iter().map(one).collect(),
        name => {
            find(app, name, &request.version, deadline).await?;
            app.models.loaded().matching(name, given(&request.version)).map(one).collect()
        }
    };
    Ok(ModelStatisticsResponse { model_stats })
}

fn shared_memory_status(app: &App, name: &str) -> Result<SystemSharedMemoryStatusResponse> {
    let regions = app.shared_memory.status(Some(name).filter(|name| !name.is_empty()))?;
    let one = |(name, region): (String, Region)| {
        let Region { key, offset, byte_size, .. } = region;
        (name.clone(), RegionStatus { name, key, offset, byte_size })
    };
    Ok(SystemSharedMemoryStatusResponse { regions: regions.into_iter().map(one).collect() })
}

/// Scores a request for the model that it names.
async fn infer(
    counted: &mut Counted<'_>,
    request: ModelInferRequest,
    deadline: Instant,
) -> Result<ModelInferResponse> {
    let model = find(counted.app, &request.model_name, &request.model_version, deadline).await?;
    score(counted.scoring(model, deadline), request).await
}

async fn score(mut scoring: Scoring<'_>, request: ModelInferRequest) -> Result<ModelInferResponse> {
    scoring.admit()?;
    let (model, regions) = (Arc::clone(&scoring.model), scoring.app.regions());
    let signature = &model.runner.signature;
    let request = decode(request, &regions, signature)?;
    scoring.deadline = sooner(scoring.deadline, request.timeout);
    let sink =
        AnswerSink::new(Arc::clone(signature), model.name(), &model.version, request.id, request.forms);
    Ok(scoring.score(request.inputs, request.outputs, sink).await?.finish())
}

/// Answers the requests of a stream, in their order. The response to a request that fails has an error message, and the
/// stream continues.
fn stream(app: Arc<App>, messages: Messages) -> ResponseBody {
    let answers = unfold(Some((app, messages)), |state| async move {
        let (app, mut messages) = state?;
        match messages.next().await {
            Ok(Some(read)) => {
                let answer = message(&app, read.bytes.clone()).await;
                Some((Frame::data(frame(&answer)), Some((app, messages))))
            }
            Ok(None) => Some((end(Ok(())), None)),
            Err(error) => Some((end(Err(error)), None)),
        }
    });
    ResponseBody::stream(answers)
}

/// Answers one request of a stream; the span is that of the whole stream.
async fn message(app: &Arc<App>, message: Bytes) -> ModelStreamInferResponse {
    let mut counted = Counted::begin(app);
    let (result, id) = match parse::<ModelInferRequest>(message) {
        Ok(request) => {
            let (id, deadline) = (request.id.clone(), counted.latest());
            (infer(&mut counted, request, deadline).await, id)
        }
        Err(error) => (Err(error), String::new()),
    };
    counted.end(&result);
    let (error_message, response) = match result {
        Ok(response) => (String::new(), response),
        // The id identifies the request.
        Err(error) => {
            (error.message().to_owned(), ModelInferResponse { id, ..ModelInferResponse::default() })
        }
    };
    ModelStreamInferResponse { error_message, infer_response: Some(response) }
}
