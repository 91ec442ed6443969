//! The options of a deployment: checks their values, and applies those that belong to the service and not to a
//! revision.

use super::capacity::check_resources;
use crate::db::services::ServiceRow;
use crate::error::{ControlError, Result};
use drisse_core::{ServiceName, Serving};
use drisse_wire::control::{DeployRequest, ServingOptions};

/// The maximum number of replicas of a service. A larger number is a typing error.
const MAX_REPLICAS: u32 = 100;

/// The maximum number of aliases of a service.
const MAX_ALIASES: usize = 32;

/// Sets the options that belong to the service.
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

/// Returns whether a text is an origin as browsers send it (without a path or a slash at the end), `*` or `null`.
fn is_origin(origin: &str) -> bool {
    let host = origin.split_once("://").map(|(_, host)| host);
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    matches!(origin, "*" | "null") || host.is_some_and(plain)
}

/// Checks the options of a request before an operation is started for it.
///
/// # Errors
/// Returns an error that names an invalid option and the values that it can have.
pub(crate) fn check_options(request: &DeployRequest) -> Result<()> {
    if request.replicas.is_some_and(|replicas| replicas == 0 || replicas > MAX_REPLICAS) {
        return Err(ControlError::invalid(format!("`replicas` must be from 1 to {MAX_REPLICAS}")));
    }
    let origins = request.cors_origins.iter().flatten();
    if let Some(wrong) = origins.into_iter().find(|origin| !is_origin(origin)) {
        let message = format!("`{wrong}` in `cors_origins` is not a valid origin");
        return Err(ControlError::invalid(message)
            .hint("write an origin as `https://HOST` or `https://HOST:PORT`; `*` allows every origin"));
    }
    check_aliases(request.aliases.as_deref().unwrap_or_default(), request.name.as_deref())?;
    let ServingOptions { threads, workers, max_batch, .. } = request.serving;
    for (option, value) in [("threads", threads), ("workers", workers), ("max_batch", max_batch)] {
        if value.is_some_and(|value| value > Serving::MAX) {
            let message = format!("`{option}` must be from 0 to {}", Serving::MAX);
            return Err(
                ControlError::invalid(message).hint("with 0, each replica finds the best value itself")
            );
        }
    }
    check_resources(&request.resources)?;
    let has_control = |text: &str| text.contains(char::is_control);
    let mut tags = request.tags.iter().flatten();
    if let Some((key, _)) = tags.find(|(key, value)| has_control(key) || has_control(value)) {
        let message =
            format!("tag `{}` contains a control character, such as a line break", key.escape_debug());
        return Err(ControlError::invalid(message));
    }
    check_time("scoring_timeout", request.scoring_timeout_ms)?;
    check_time("timeout", request.timeout_ms)
}

/// Checks the further names of a service. Whether another service has them is checked when they are stored.
fn check_aliases(aliases: &[String], name: Option<&str>) -> Result<()> {
    if aliases.len() > MAX_ALIASES {
        return Err(ControlError::invalid(format!("a service has at most {MAX_ALIASES} aliases")));
    }
    for (nth, alias) in aliases.iter().enumerate() {
        let refused = || ControlError::invalid(format!("`{}` cannot be an alias", alias.escape_debug()));
        alias.parse::<ServiceName>().map_err(|error| refused().because(&error))?;
        if Some(alias.as_str()) == name {
            return Err(refused().cause("it is the service's name"));
        }
        if aliases[..nth].contains(alias) {
            return Err(refused().cause("it is given twice"));
        }
    }
    Ok(())
}

/// Refuses a time limit of 0 ms.
pub(crate) fn check_time(option: &str, time: Option<u64>) -> Result<()> {
    if time == Some(0) {
        return Err(ControlError::invalid(format!("`{option}` must be at least 1 ms")));
    }
    Ok(())
}
