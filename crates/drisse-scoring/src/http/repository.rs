//! `/v2/repository`: lists, loads and unloads models.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md>

use super::reply::Reply;
use super::route::RepositoryAction;
use crate::app::App;
use crate::models::{RepositoryEntry, check_parameters};
use drisse_core::{Error, Result};
use serde_json::{Value, json};

/// Answers a request with this `body`.
pub(crate) async fn answer(app: &App, action: RepositoryAction<'_>, body: &[u8]) -> Result<Reply> {
    let body = parse(body)?;
    match action {
        RepositoryAction::Index => {
            let entries = app.models.entries(body["ready"].as_bool().unwrap_or(false));
            Ok(Reply::json(entries.iter().map(document).collect::<Value>().to_string()))
        }
        RepositoryAction::Load(name) => {
            let parameters = body["parameters"].as_object().into_iter().flatten();
            let given = parameters.filter(|(_, value)| !value.is_null());
            check_parameters(name, given.map(|(name, _)| &**name))?;
            app.models.load(name).await.map(|()| Reply::empty(200))
        }
        RepositoryAction::Unload(name) => app.models.unload(name).map(|()| Reply::empty(200)),
    }
}

fn parse(body: &[u8]) -> Result<Value> {
    if body.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| Error::invalid(format!("the body is not JSON: {error}")))
}

fn document(entry: &RepositoryEntry) -> Value {
    let (state, reason) = entry.state();
    json!({ "name": entry.name, "version": entry.version, "state": state, "reason": reason })
}
