//! `grpc.health.v1.Health`: the health of the server, its services and its models, without a key.

use super::{Answer, Call, end, inference, reflection, unknown};
use crate::app::App;
use crate::body::ResponseBody;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::grpc::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};
use drisse_wire::grpc::{frame, parse};
use futures_util::stream::unfold;
use hyper::body::{Frame, Incoming};
use std::time::Duration;

pub(super) const SERVICE: &str = drisse_wire::grpc::HEALTH;

/// The longest time until a change is sent to watching clients.
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn answer(call: Call, body: Incoming) -> Result<Answer> {
    let read = call.message(body).await?;
    let HealthCheckRequest { service } = parse(read.bytes.clone())?;
    match &*call.method {
        "Check" => match status(&call.app, &service) {
            ServingStatus::ServiceUnknown => {
                let service = &service[..service.floor_char_boundary(80)];
                Err(Error::new(ErrorKind::NotFound, format!("there is no service and no model `{service}`")))
            }
            status => Ok(Answer::One(frame(&HealthCheckResponse { status: status.into() }))),
        },
        "Watch" => Ok(Answer::Stream(watch(call, service))),
        other => Err(unknown(&format!("{SERVICE}/{other}"))),
    }
}

fn status(app: &App, service: &str) -> ServingStatus {
    let known = matches!(service, "" | SERVICE | inference::SERVICE | reflection::SERVICE);
    match (known || app.models.check_served(service, None).is_ok(), app.is_ready()) {
        (true, true) => ServingStatus::Serving,
        (true, false) => ServingStatus::NotServing,
        (false, _) => ServingStatus::ServiceUnknown,
    }
}

fn watch(call: Call, service: String) -> ResponseBody {
    let statuses = unfold(Some(None), move |sent: Option<Option<ServingStatus>>| {
        let (app, service) = (call.app.clone(), service.clone());
        async move {
            let sent = sent?;
            loop {
                let now = status(&app, &service);
                if sent != Some(now) {
                    let message = frame(&HealthCheckResponse { status: now.into() });
                    return Some((Frame::data(message), Some(Some(now))));
                }
                if app.is_draining() {
                    return Some((end(Ok(())), None));
                }
                tokio::time::sleep(INTERVAL).await;
            }
        }
    });
    ResponseBody::stream(statuses)
}
