//! The model repository's methods, for whoever may change what is served.

use super::unknown;
use crate::app::App;
use crate::repository::{Entry, check_parameters, load};
use bytes::Bytes;
use drisse_core::Result;
use drisse_wire::grpc::inference::{
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, repository_index_response::ModelIndex,
};
use drisse_wire::grpc::{frame, parse};
use std::sync::Arc;

/// Answers the message of a call of `method`.
pub(super) async fn answer(app: &Arc<App>, method: &str, message: Bytes) -> Result<Bytes> {
    Ok(match method {
        "RepositoryIndex" => frame(&index(app, parse(message)?)),
        "RepositoryModelLoad" => {
            let RepositoryModelLoadRequest { model_name, parameters, .. } = parse(message)?;
            check_parameters(parameters.keys().map(|name| &**name))?;
            load(app, &model_name).await?;
            frame(&RepositoryModelLoadResponse {})
        }
        "RepositoryModelUnload" => {
            let RepositoryModelUnloadRequest { model_name, .. } = parse(message)?;
            app.unload(&model_name)?;
            frame(&RepositoryModelUnloadResponse {})
        }
        other => return Err(unknown(other)),
    })
}

fn index(app: &App, asked: RepositoryIndexRequest) -> RepositoryIndexResponse {
    let entry = |entry: Entry| {
        let (state, reason) = entry.state();
        let (state, reason) = (state.to_owned(), reason.to_owned());
        ModelIndex { name: entry.name, version: entry.version, state, reason }
    };
    RepositoryIndexResponse { models: app.entries(asked.ready).into_iter().map(entry).collect() }
}
