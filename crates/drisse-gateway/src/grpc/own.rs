//! The gRPC calls that the gateway answers itself.

use super::{Method, PEEK, first, unnamed};
use crate::answer::{AnswerBody, grpc_answer};
use crate::state::Core;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::grpc::{
    self, HEALTH, INFERENCE,
    health::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus},
    inference::{ServerLiveResponse, ServerMetadataResponse, ServerReadyResponse},
};
use hyper::Response;
use hyper::body::Incoming;
use std::time::Instant;

impl Core {
    /// Answers a call that concerns the gateway itself.
    pub(super) async fn own_call(
        &self,
        method: Method<'_>,
        body: Incoming,
        started: Instant,
    ) -> Result<Response<AnswerBody>> {
        let ready = !self.state.is_draining();
        let message = match (method.service, method.name) {
            (INFERENCE, "ServerLive") => grpc::frame(&ServerLiveResponse { live: true }),
            (INFERENCE, "ServerReady") => grpc::frame(&ServerReadyResponse { ready }),
            (INFERENCE, "ServerMetadata") => grpc::frame(&ServerMetadataResponse {
                name: "drisse".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                extensions: drisse_wire::documents::EXTENSIONS.map(str::to_owned).to_vec(),
            }),
            (HEALTH, "Check") => self.check(first(method, body, started).await?.first, ready)?,
            _ => return Err(unnamed()),
        };
        Ok(grpc_answer(AnswerBody::Message(Some(message), Some(grpc::ok()))))
    }

    /// Answers a health check of the gateway or of one service.
    fn check(&self, body: Bytes, ready: bool) -> Result<Bytes> {
        let HealthCheckRequest { service } = grpc::parse(grpc::only_frame(body, PEEK)?.message)?;
        let is_ours = matches!(&*service, "" | HEALTH | INFERENCE);
        let has_replicas = self.state.table.service_named(&service).map(|service| service.has_replicas());
        let status = match has_replicas {
            None if !is_ours => {
                let service = &service[..service.floor_char_boundary(64)];
                return Err(Error::new(ErrorKind::NotFound, format!("there is no service `{service}`")));
            }
            has_replicas if ready && (is_ours || has_replicas == Some(true)) => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        Ok(grpc::frame(&HealthCheckResponse { status: status.into() }))
    }
}
