//! Returning a service to an earlier revision.

use super::Services;
use super::decision::{Before, Decided};
use crate::db::now;
use crate::db::services::ServiceRow;
use crate::error::{ControlError, Result};
use crate::running::{OperationError, Running};
use drisse_wire::control::{RollbackRequest, ServiceState};
use serde_json::{Value, json};

impl Services {
    /// Returns a service to an earlier revision, and waits until it has converged.
    pub(crate) async fn rollback(
        &self,
        op: &Running,
        request: RollbackRequest,
    ) -> Result<Value, OperationError> {
        let name = op.subject();
        let decided = match Decided::of(op) {
            Some(decided) => decided,
            None => {
                let mut row = self.db.existing_service(name).await?;
                let to = self.earlier(&row, request.revision).await?;
                let expected = row.generation;
                let before = row.active.then(|| Before::of(&row));
                let changed = row.revision != to || !row.active;
                if let Some(earlier) = self.db.revision(name, to).await? {
                    let replicas = row.asked_replicas();
                    self.check_capacity(name, &row.target, &earlier.resources, replicas).await?;
                    self.models.check_signed(&earlier.model_name(), &earlier.package).await?;
                }
                if changed {
                    row.generation += 1;
                    row.state = if row.active { ServiceState::Updating } else { ServiceState::Deploying };
                    (row.active, row.error, row.updated) = (true, None, now());
                    row.want_only(to, row.asked_replicas().max(1));
                }
                let decided = Decided { generation: row.generation, revision: to, changed, before };
                self.db.want(&row, None, expected, Some((op.id(), &json!(decided)))).await?;
                op.progress.add(format!("revision {to} of service {name} is wanted again"));
                decided
            }
        };
        self.complete(op, &decided).await?;
        Ok(json!({ "revision": decided.revision, "changed": decided.changed }))
    }

    /// Returns the named revision, or the one before the wanted revision.
    ///
    /// # Errors
    /// Returns an error with the kept revisions if there is no such revision.
    async fn earlier(&self, service: &ServiceRow, named: Option<u64>) -> Result<u64> {
        let kept: Vec<_> = self.db.revisions(&service.name).await?.iter().map(|r| r.revision).collect();
        let found = match named {
            Some(named) => kept.iter().find(|&&revision| revision == named),
            None => kept.iter().find(|&&revision| revision < service.revision),
        };
        found.copied().ok_or_else(|| {
            let kept: Vec<_> = kept.iter().map(u64::to_string).collect();
            let message = match named {
                Some(named) => format!("service `{}` has no revision {named}", service.name),
                None => format!("service `{}` has no revision before {}", service.name, service.revision),
            };
            ControlError::invalid(message).hint(format!("its revisions are {}", kept.join(", ")))
        })
    }
}
