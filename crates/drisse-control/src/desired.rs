//! The desired state of services, which reconcilers read from the database.

use crate::claims::Claims;
use crate::db::Db;
use crate::db::services::{RevisionRow, ServiceRow};
use crate::error::{ControlError, Result};
use crate::keys;
use crate::models::Models;
use crate::services::capacity::{environment, limits, restart};
use async_trait::async_trait;
use drisse_core::{Environment, RevisionSpec, ServiceName, Serving, Wanted};
use drisse_net::blocking;
use drisse_reconcile::{Deletion, Desired, DesiredService, ReconcileError, Status};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The desired state of a workspace.
#[derive(Debug)]
pub(crate) struct DatabaseDesired {
    pub(crate) db: Db,
    pub(crate) models: Arc<Models>,
    pub(crate) claims: Arc<Claims>,
    /// Where keys and logs of services are kept.
    pub(crate) services: PathBuf,
}

impl DatabaseDesired {
    /// Returns the folder of a service's keys and logs.
    fn folder(&self, name: &ServiceName) -> PathBuf {
        self.services.join(&*name.label())
    }

    async fn spec(&self, service: &ServiceRow, revision: &RevisionRow) -> Result<RevisionSpec> {
        Ok(RevisionSpec {
            service: service.name.parse().map_err(|error| {
                ControlError::internal("the database contains an invalid service name").because(&error)
            })?,
            revision: revision.revision,
            aliases: revision.aliases.clone(),
            model_version: revision.version.to_string(),
            digest: revision.digest.clone(),
            package: revision.package.clone(),
            keys: if revision.auth { keys::digests(service) } else { vec![] },
            max_wait: revision.max_wait(),
            scoring_timeout: Duration::from_millis(revision.scoring_timeout_ms),
            serving: Serving {
                threads: revision.serving.threads,
                workers: revision.serving.workers,
                max_batch: revision.serving.max_batch,
                triton_metrics: revision.serving.triton_metrics == Some(true),
            },
            limits: limits(&revision.resources),
            restart: restart(&revision.resources),
            trust: self.models.trust(&revision.package).await?,
            environment: Environment(environment(&revision.resources)),
        })
    }
}

#[async_trait]
impl Desired for DatabaseDesired {
    async fn services(&self) -> Result<Vec<ServiceName>, ReconcileError> {
        let names = self.db.service_names().await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    async fn service(&self, name: &ServiceName) -> Result<Option<DesiredService>, ReconcileError> {
        let folder = self.folder(name);
        let name = name.as_str();
        let Some(row) = self.db.service(name).await? else { return Ok(None) };
        let mut wanted = Vec::new();
        for share in &row.wanted {
            let revision = self.db.revision(name, share.revision).await?.ok_or_else(|| {
                let number = share.revision;
                ControlError::internal(format!(
                    "revision {number} of service `{name}` is missing from the database"
                ))
            })?;
            let revision = self.spec(&row, &revision).await?;
            wanted.push(Wanted { revision, replicas: share.replicas(), weight: share.weight });
        }
        let forced = if self.claims.is_forced(name) { Deletion::Forced } else { Deletion::Orderly };
        Ok(Some(DesiredService {
            generation: row.generation,
            target: row.target,
            wanted,
            active: row.active,
            deletion: row.deleting.then_some(forced),
            cors_origins: row.cors_origins,
            access_log: row.access_log.then(|| folder.join("access.log")),
            in_operation: self.claims.is_claimed(name),
            status: Status { state: row.state, error: row.error },
        }))
    }

    async fn revision(
        &self,
        name: &ServiceName,
        revision: u64,
    ) -> Result<Option<RevisionSpec>, ReconcileError> {
        let name = name.as_str();
        let row = self.db.service(name).await?.zip(self.db.revision(name, revision).await?);
        match row {
            Some((service, revision)) => Ok(Some(self.spec(&service, &revision).await?)),
            None => Ok(None),
        }
    }

    async fn report(
        &self,
        name: &ServiceName,
        generation: u64,
        status: &Status,
    ) -> Result<(), ReconcileError> {
        Ok(self.db.set_state(name.as_str(), generation, status.state, status.error.as_ref()).await?)
    }

    async fn forget(&self, name: &ServiceName) -> Result<(), ReconcileError> {
        let folder = self.folder(name);
        // If its target did not answer, the files that are here are still left.
        let _ = blocking(move || std::fs::remove_dir_all(folder)).await;
        Ok(self.db.forget_service(name.as_str()).await?)
    }
}
