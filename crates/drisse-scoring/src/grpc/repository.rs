//! The methods of the model repository.

use super::unknown;
use crate::app::App;
use crate::models::{RepositoryEntry, check_parameters};
use bytes::Bytes;
use drisse_core::Result;
use drisse_wire::grpc::inference::{
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, repository_index_response::ModelIndex,
};
use drisse_wire::grpc::{frame, parse};

/// Answers a call of `method`.
pub(super) async fn answer(app: &App, method: &str, message: Bytes) -> Result<Bytes> {
    Ok(match method {
        "RepositoryIndex" => frame(&index(app, parse(message)?)),
        "RepositoryModelLoad" => {
            let RepositoryModelLoadRequest { model_name, parameters, .. } = parse(message)?;
            check_parameters(&model_name, parameters.keys().map(|name| &**name))?;
            app.models.load(&model_name).await?;
            frame(&RepositoryModelLoadResponse {})
        }
        "RepositoryModelUnload" => {
            let RepositoryModelUnloadRequest { model_name, .. } = parse(message)?;
            app.models.unload(&model_name)?;
            frame(&RepositoryModelUnloadResponse {})
        }
        other => return Err(unknown(other)),
    })
}

fn index(app: &App, request: RepositoryIndexRequest) -> RepositoryIndexResponse {
    let entry = |entry: RepositoryEntry| {
        let (state, reason) = entry.state();
        let (state, reason) = (state.to_owned(), reason.to_owned());
        ModelIndex { name: entry.name, version: entry.version, state, reason }
    };
    RepositoryIndexResponse { models: app.models.entries(request.ready).into_iter().map(entry).collect() }
}
