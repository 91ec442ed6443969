//! `/v2/systemsharedmemory` and `/v2/cudasharedmemory`: list, register and unregister the memory that clients share.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md>

use super::reply::Reply;
use super::route::SharedMemoryAction;
use crate::app::App;
use crate::shared_memory::{Region, no_cuda_region, unknown_cuda};
use drisse_core::{Error, Result};
use serde_json::{Value, json};

/// Answers a request with this `body`.
pub(super) fn answer(app: &App, action: SharedMemoryAction<'_>, body: &[u8]) -> Result<Reply> {
    match action {
        SharedMemoryAction::Status(name) => {
            let regions = app.shared_memory.status(name)?;
            let document = |(name, region): (String, Region)| {
                let (key, offset, byte_size) = (region.key, region.offset, region.byte_size);
                json!({ "name": name, "key": key, "offset": offset, "byte_size": byte_size })
            };
            Ok(Reply::json(regions.into_iter().map(document).collect::<Value>().to_string()))
        }
        SharedMemoryAction::Register(name) => {
            let body: Value = serde_json::from_slice(body)
                .map_err(|error| Error::invalid(format!("the body is not JSON: {error}")))?;
            let missing = |what: &str| Error::invalid(format!("the body has no `{what}`"));
            let key = body["key"].as_str().ok_or_else(|| missing("key"))?;
            let byte_size = body["byte_size"].as_u64().ok_or_else(|| missing("byte_size"))?;
            let offset = match &body["offset"] {
                Value::Null => 0,
                offset => offset.as_u64().ok_or_else(|| Error::invalid("`offset` is a whole number"))?,
            };
            app.shared_memory.register(name, key, offset, byte_size).map(|()| Reply::empty(200))
        }
        SharedMemoryAction::Unregister(name) => {
            app.shared_memory.unregister(name);
            Ok(Reply::empty(200))
        }
    }
}

/// Answers a request about the memory of GPUs: there are no regions.
pub(super) fn answer_cuda(action: SharedMemoryAction<'_>) -> Result<Reply> {
    match action {
        SharedMemoryAction::Status(None) => Ok(Reply::json("[]")),
        SharedMemoryAction::Status(Some(name)) => Err(unknown_cuda(name)),
        SharedMemoryAction::Register(name) => Err(no_cuda_region(name)),
        SharedMemoryAction::Unregister(_) => Ok(Reply::empty(200)),
    }
}
