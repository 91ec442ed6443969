//! The options of a deployment: which are invalid, and which belong to the service rather than to a revision.

use super::capacity::check_resources;
use crate::db::services::ServiceRow;
use crate::error::{ControlError, Result};
use drisse_core::Serving;
use drisse_wire::control::{DeployRequest, ServingOptions};

/// The most replicas of a service: more on one machine are a typing error.
const MAX_REPLICAS: u32 = 100;

/// Takes over the options that belong to the service.
pub(super) fn apply_options(row: &mut ServiceRow, request: &DeployRequest) {
    if let Some(target) = &request.target {
        row.target.clone_from(target);
    }
    if let Some(tags) = &request.tags {
        row.tags.clone_from(tags);
    }
    if let Some(origins) = &request.cors_origins {
        row.cors_origins.clone_from(origins);
    }
    row.access_log = request.access_log.unwrap_or(row.access_log);
}

/// Browsers name origins without a path or a slash at the end.
fn is_origin(origin: &str) -> bool {
    let host = origin.split_once("://").map(|(_, host)| host);
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    matches!(origin, "*" | "null") || host.is_some_and(plain)
}

/// Refuses what cannot be meant, before an operation is begun.
pub(crate) fn check_options(request: &DeployRequest) -> Result<()> {
    if request.replicas.is_some_and(|replicas| replicas == 0 || replicas > MAX_REPLICAS) {
        return Err(ControlError::invalid(format!("replicas are from 1 to {MAX_REPLICAS}")));
    }
    let origins = request.cors_origins.iter().flatten();
    if let Some(wrong) = origins.into_iter().find(|origin| !is_origin(origin)) {
        let message = format!("`{wrong}` is not an origin of web pages");
        return Err(ControlError::invalid(message)
            .hint("one is `https://HOST` or `https://HOST:PORT`; `*` is every one"));
    }
    let ServingOptions { threads, workers, max_batch, .. } = request.serving;
    if [threads, workers, max_batch].iter().flatten().any(|&number| number > Serving::MAX) {
        let message = format!("threads, workers and rows of a run are at most {}", Serving::MAX);
        return Err(ControlError::invalid(message).hint("0 is what runs best"));
    }
    check_resources(&request.resources)?;
    if request.tags.iter().flatten().any(|(key, value)| format!("{key}{value}").contains(char::is_control)) {
        return Err(ControlError::invalid("a tag has a line break or another control character in it"));
    }
    let zero = |time: Option<u64>| time == Some(0);
    if zero(request.max_wait_ms) || zero(request.scoring_timeout_ms) || zero(request.timeout_ms) {
        return Err(ControlError::invalid("a time limit is more than nothing"));
    }
    Ok(())
}
