//! `/v2/repository`: which models there are, and loading and unloading them.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md>

use super::reply::Reply;
use super::route::Repository;
use crate::app::App;
use crate::repository::{Entry, check_parameters, load};
use drisse_core::{Error, Result};
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers what `body` asks for.
pub(super) async fn answer(app: &Arc<App>, asked: Repository<'_>, body: &[u8]) -> Result<Reply> {
    let body = parse(body)?;
    match asked {
        Repository::Index => {
            let entries = app.entries(body["ready"].as_bool().unwrap_or(false));
            Ok(Reply::json(entries.iter().map(document).collect::<Value>().to_string()))
        }
        Repository::Load(name) => {
            let parameters = body["parameters"].as_object().into_iter().flatten();
            check_parameters(parameters.map(|(name, _)| &**name))?;
            load(app, name).await.map(|()| Reply::empty(200))
        }
        Repository::Unload(name) => app.unload(name).map(|()| Reply::empty(200)),
    }
}

fn parse(body: &[u8]) -> Result<Value> {
    if body.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| Error::invalid(format!("the body is no JSON: {error}")))
}

fn document(entry: &Entry) -> Value {
    let (state, reason) = entry.state();
    json!({ "name": entry.name, "version": entry.version, "state": state, "reason": reason })
}
