//! The next revision of a service: the current one, with the changes that a request asks for.

use super::Services;
use super::capacity::{LOCAL, restart};
use crate::db::models::ModelRow;
use crate::db::now;
use crate::db::services::{RevisionRow, ServiceRow};
use crate::error::{ControlError, Result};
use crate::keys;
use drisse_core::Replica;
use drisse_registry::signature_of;
use drisse_wire::control::{DeployRequest, ServiceState};

const DEFAULT_SCORING_TIMEOUT_MS: u64 = 60_000;

/// Returns the row of a new service, which has no revision yet.
pub(super) fn new_service(name: &str) -> Result<ServiceRow> {
    Ok(ServiceRow {
        name: name.to_owned(),
        target: LOCAL.to_owned(),
        revision: 0,
        active: false,
        wanted: vec![],
        state: ServiceState::Deploying,
        error: None,
        primary_key: keys::make()?,
        secondary_key: keys::make()?,
        tags: Default::default(),
        created: now(),
        updated: now(),
        generation: 0,
        deleting: false,
        cors_origins: vec![],
        access_log: false,
        stem: None,
    })
}

impl Services {
    /// Returns the new revision that a request asks for; `None` if the current one already is as requested.
    pub(super) async fn next_revision(
        &self,
        service: &ServiceRow,
        current: Option<&RevisionRow>,
        model: Option<&ModelRow>,
        request: &DeployRequest,
    ) -> Result<Option<RevisionRow>> {
        let newest = self.db.revisions(&service.name).await?.first().map_or(0, |newest| newest.revision);
        let mut next = current.cloned().unwrap_or_else(|| RevisionRow {
            service: service.name.clone(),
            auth: true,
            scoring_timeout_ms: DEFAULT_SCORING_TIMEOUT_MS,
            created: now(),
            ..RevisionRow::default()
        });
        if let Some(model) = model {
            next.model.clone_from(&model.name);
            next.version = model.version;
            next.digest.clone_from(&model.digest);
            next.package.clone_from(&model.package);
        }
        next.auth = request.auth.unwrap_or(next.auth);
        if let Some(aliases) = &request.aliases {
            next.aliases.clone_from(aliases);
        }
        next.max_wait_ms = request.max_wait_ms.unwrap_or(next.max_wait_ms);
        next.scoring_timeout_ms = request.scoring_timeout_ms.unwrap_or(next.scoring_timeout_ms);
        next.serving = request.serving.over(next.serving);
        next.resources = request.resources.clone().over(next.resources);
        // A revision that failed or whose replicas have ended gets a new number, so that earlier deaths do not count.
        let still_runs = |current: &RevisionRow| current.same_as(&next) && !self.has_ended(current);
        let same = current.is_some_and(still_runs) && service.active;
        next.revision = newest + 1;
        Ok((!same).then_some(next))
    }

    /// Checks that the inputs and outputs of a new model are those of the current model.
    ///
    /// # Errors
    /// Returns a conflict that names the first difference.
    pub(super) async fn check_same_signature(
        &self,
        name: &str,
        current: &RevisionRow,
        model: &ModelRow,
    ) -> Result<()> {
        let Ok(old) = self.db.model(&current.model, Some(current.version)).await else { return Ok(()) };
        let (Some(old), Some(new)) = (signature_of(&old.signature), signature_of(&model.signature)) else {
            return Ok(());
        };
        let Some(difference) = old.difference(&new) else { return Ok(()) };
        let message =
            format!("cannot update service `{name}` to model `{}`: {difference}", model.full_name());
        Err(ControlError::conflict(message)
            .hint("the change can break clients; to make it anyway, deploy with --replace"))
    }

    /// Returns whether a replica of a revision has ended and is not replaced.
    fn has_ended(&self, revision: &RevisionRow) -> bool {
        let restart = restart(&revision.resources);
        let ended = |replica: &Replica| {
            replica.revision == revision.revision
                && replica.death().is_some_and(|death| restart.leaves(death))
        };
        let task = self.running_task(&revision.service);
        task.is_some_and(|task| task.observed().borrow().replicas.iter().any(ended))
    }
}
