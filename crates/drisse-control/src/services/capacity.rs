//! Checks that the target of a service has the capacity for it, before anything is started.

use super::Services;
use crate::db::services::ServiceRow;
use crate::error::{ControlError, Result};
use drisse_core::{Demand, Limits, Restart};
use drisse_wire::control::{DeployRequest, Resources, RestartPolicy};
use std::collections::BTreeMap;

/// The default target of a service.
pub(crate) const LOCAL: &str = "local";

/// The maximum size of all environment variables of a replica in bytes, names and values together. The kernel limits
/// the environment of a process as well.
const MAX_ENVIRONMENT: usize = 64 << 10;

impl Services {
    /// Checks that the target has the capacity for a service after the change that `request` asks for.
    ///
    /// # Errors
    /// Returns a conflict if the capacity does not suffice, or if the target cannot enforce a limit.
    pub(crate) async fn check_fits(
        &self,
        name: &str,
        there: Option<&ServiceRow>,
        request: &DeployRequest,
    ) -> Result<()> {
        let before = match there {
            Some(service) => self.db.revision(name, service.revision).await?,
            None => None,
        };
        let resources = request.resources.clone().over(before.map(|row| row.resources).unwrap_or_default());
        let target = there.map(|service| &service.target).or(request.target.as_ref());
        let target = target.map_or(LOCAL, |target| target);
        let replicas = request.replicas.or(there.map(ServiceRow::asked_replicas)).unwrap_or(1);
        self.check_capacity(name, target, &resources, replicas).await
    }

    /// Checks that the target has the capacity for the replicas of a service beside the other services on it.
    ///
    /// # Errors
    /// Returns a conflict if the capacity does not suffice, or if the target cannot enforce a limit.
    pub(super) async fn check_capacity(
        &self,
        service: &str,
        target: &str,
        resources: &Resources,
        replicas: u32,
    ) -> Result<()> {
        let capacity = self.targets.capacity(target).await?;
        let limits = limits(resources);
        let refused = |why: String| {
            ControlError::conflict(format!("cannot run service `{service}` on target `{target}`: {why}"))
        };
        capacity.keeps(limits).map_err(|why| {
            refused(why)
                .hint("remove the limit (`none`), or deploy to another target: `drisse targets` lists them")
        })?;
        // A service without limits fits on every target that does not limit the number of services.
        if limits == Limits::default() && capacity.services.is_none() {
            return Ok(());
        }
        let (others, holds) = self.db.demand(target, service).await?;
        capacity.fits(others, holds, Demand::of(limits, replicas)).map_err(|why| {
            refused(why).hint(format!("`drisse services --target {target}` lists what runs there"))
        })
    }
}

pub(crate) fn limits(resources: &Resources) -> Limits {
    Limits { cpu: resources.cpu_millis, memory: resources.memory_bytes }
}

pub(crate) fn restart(resources: &Resources) -> Restart {
    match resources.restart {
        None | Some(RestartPolicy::Always) => Restart::Always,
        Some(RestartPolicy::OnFailure) => Restart::OnFailure,
        Some(RestartPolicy::Never) => Restart::Never,
    }
}

/// Returns all environment variables, including secret ones.
pub(crate) fn environment(resources: &Resources) -> BTreeMap<String, String> {
    let secrets = resources.secret_env.clone().unwrap_or_default().0;
    resources.env.clone().unwrap_or_default().into_iter().chain(secrets).collect()
}

/// Checks limits and environment variables, whatever the target.
///
/// # Errors
/// Returns an error that names the first invalid limit or variable.
pub(crate) fn check_resources(resources: &Resources) -> Result<()> {
    if resources.cpu_millis.is_some_and(|cpu| (1..Limits::MIN_CPU).contains(&cpu)) {
        return Err(ControlError::invalid("the CPU limit of a replica must be at least 0.01 cores"));
    }
    if resources.memory_bytes.is_some_and(|memory| (1..Limits::MIN_MEMORY).contains(&memory)) {
        let least = drisse_core::size(Limits::MIN_MEMORY);
        return Err(ControlError::invalid(format!("the memory limit of a replica must be at least {least}")));
    }
    let secrets = resources.secret_env.iter().flat_map(|secrets| &secrets.0);
    let variables: Vec<_> = resources.env.iter().flatten().chain(secrets).collect();
    for (name, value) in &variables {
        check_variable(name, value)?;
    }
    let size: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_ENVIRONMENT {
        return Err(ControlError::invalid(format!(
            "the environment variables have {size} bytes in total; at most {MAX_ENVIRONMENT} are allowed"
        )));
    }
    Ok(())
}

/// Checks the name and the value of an environment variable. The error does not show the value, which may be secret.
fn check_variable(name: &str, value: &str) -> Result<()> {
    let first = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !first || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        let message = format!("`{}` is not a valid name of an environment variable", name.escape_default());
        return Err(ControlError::invalid(message)
            .hint("a name consists of letters, digits and `_`, and does not start with a digit"));
    }
    if value.contains(['\n', '\r', '\0']) {
        let message = format!("the value of `{name}` contains a line break or a NUL character");
        return Err(ControlError::invalid(message).hint("encode the value, for example as base64"));
    }
    Ok(())
}
