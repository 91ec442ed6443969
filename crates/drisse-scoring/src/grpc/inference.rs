//! `inference.GRPCInferenceService`: the Open Inference Protocol.

use super::messages::Messages;
use super::{Answer, Call, end, repository, unknown};
use crate::app::App;
use crate::http::answer_body::AnswerBody;
use crate::model::Model;
use crate::repository::check_control;
use crate::score::{Request, admit, score, sooner};
use crate::shared_memory::{Region, Used};
use drisse_core::Result;
use drisse_net::trace::Stages;
use drisse_wire::grpc::inference::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    ModelStreamInferResponse, ServerLiveResponse, ServerMetadataResponse, ServerReadyResponse,
    SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse, SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse, system_shared_memory_status_response::RegionStatus,
};
use drisse_wire::grpc::{AnswerSink, config, decode, frame, metadata, parse, statistics};
use futures_util::stream::unfold;
use hyper::body::{Frame, Incoming};
use std::sync::Arc;
use std::time::Instant;

pub(super) const SERVICE: &str = drisse_wire::grpc::INFERENCE;

pub(super) async fn answer(call: Call, body: Incoming) -> Result<Answer> {
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
            frame(&metadata(find(app, &name, &version, call.deadline).await?.described()))
        }
        "ModelConfig" => {
            let ModelConfigRequest { name, version } = parse(message)?;
            frame(&ModelConfigResponse {
                config: Some(config(find(app, &name, &version, call.deadline).await?.described())),
            })
        }
        "ModelStatistics" => frame(&model_statistics(app, parse(message)?, call.deadline).await?),
        "ModelInfer" => {
            let request: ModelInferRequest = parse(message)?;
            let call =
                Counted { started: call.started, deadline: call.deadline, stages: call.stages.clone() };
            frame(&counted(app, request, call).await?)
        }
        method @ ("RepositoryIndex" | "RepositoryModelLoad" | "RepositoryModelUnload") => {
            check_control(app)?;
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
            app.shared_memory.unregister(Some(&*name).filter(|name| !name.is_empty()))?;
            frame(&SystemSharedMemoryUnregisterResponse {})
        }
        other => return Err(unknown(&format!("{SERVICE}/{other}"))),
    };
    Ok(Answer::One(app.hold_answer(answer)?))
}

async fn find(app: &Arc<App>, name: &str, version: &str, deadline: Instant) -> Result<Arc<Model>> {
    app.wanted(name, deadline).await?.checked(Some(version).filter(|version| !version.is_empty()))
}

fn is_served(app: &App, name: &str, version: &str) -> bool {
    app.check_served(name, Some(version).filter(|version| !version.is_empty())).is_ok()
}

async fn model_statistics(
    app: &Arc<App>,
    asked: ModelStatisticsRequest,
    deadline: Instant,
) -> Result<ModelStatisticsResponse> {
    let one = |model: &Arc<Model>| statistics(model.described(), model.metrics.statistics());
    let model_stats = match &*asked.name {
        "" => app.models().iter().map(one).collect(),
        name => vec![one(&find(app, name, &asked.version, deadline).await?)],
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

/// When a request came, until when it is worth an answer, and where its parts are noted.
struct Counted {
    started: Instant,
    deadline: Instant,
    stages: Option<Arc<Stages>>,
}

/// Scores a request, and counts it.
async fn counted(app: &Arc<App>, request: ModelInferRequest, call: Counted) -> Result<ModelInferResponse> {
    let Counted { started, deadline, stages } = call;
    let model = find(app, &request.model_name, &request.model_version, deadline).await?;
    let result = infer(app, &model, request, deadline, stages).await;
    model.metrics.ended(&result, started);
    result
}

async fn infer(
    app: &App,
    model: &Arc<Model>,
    request: ModelInferRequest,
    deadline: Instant,
    stages: Option<Arc<Stages>>,
) -> Result<ModelInferResponse> {
    admit(app, model, deadline)?;
    let used = Used::by_request(app);
    let request = decode(request, &used, &model.signature)?;
    let deadline = sooner(deadline, request.timeout);
    let (name, version) = (model.name.as_str(), &*model.version);
    let sink = AnswerSink::new(Arc::clone(&model.signature), name, version, request.id, request.forms);
    let request = Request { inputs: request.inputs, outputs: request.outputs, deadline, stages, sink };
    Ok(score(app, model, request).await?.finish())
}

/// The answers to a stream's requests, in their order. A request that fails is told in its answer; the stream goes on.
fn stream(app: Arc<App>, messages: Messages) -> AnswerBody {
    let answers = unfold(Some((app, messages)), |state| async move {
        let (app, mut messages) = state?;
        match messages.next().await {
            Ok(Some(read)) => {
                let started = Instant::now();
                let deadline = started + app.config.scoring_timeout;
                // Its call is traced, when it ends.
                let call = Counted { started, deadline, stages: None };
                let answer = match parse::<ModelInferRequest>(read.bytes.clone()) {
                    Ok(request) => {
                        let id = request.id.clone();
                        (counted(&app, request, call).await, id)
                    }
                    Err(error) => (Err(error), String::new()),
                };
                let answer = match answer {
                    (Ok(answer), _) => ModelStreamInferResponse {
                        error_message: String::new(),
                        infer_response: Some(answer),
                    },
                    // The id says which request it was.
                    (Err(error), id) => ModelStreamInferResponse {
                        error_message: error.message().to_owned(),
                        infer_response: Some(ModelInferResponse { id, ..ModelInferResponse::default() }),
                    },
                };
                Some((Frame::data(frame(&answer)), Some((app, messages))))
            }
            Ok(None) => Some((end(Ok(())), None)),
            Err(error) => Some((end(Err(error)), None)),
        }
    });
    AnswerBody::stream(answers)
}
