//! Removes the routes and replicas of services that do not exist.

use crate::reconciler::TARGET_TIMEOUT;
use crate::{Ports, ReconcileError};
use drisse_core::ServiceName;
use std::collections::BTreeSet;
use tokio::time::timeout;

/// Removes routes and replicas of services that are neither in `known` nor were deployed since.
pub(crate) async fn remove(ports: &Ports, known: &BTreeSet<ServiceName>) -> Result<(), ReconcileError> {
    let is_orphan = async |name: &ServiceName| {
        Ok::<_, ReconcileError>(!known.contains(name) && ports.desired.service(name).await?.is_none())
    };
    for name in ports.routes.list().await? {
        if is_orphan(&name).await? {
            ports.routes.remove(&name).await?;
        }
    }
    for target in ports.targets.all() {
        let Ok(Ok(all)) = timeout(TARGET_TIMEOUT, target.list(None)).await else { continue };
        let names: BTreeSet<_> = all.into_iter().map(|replica| replica.service).collect();
        for name in &names {
            if is_orphan(name).await? {
                tracing::warn!(service = %name, "removing replicas of a service that does not exist");
                target.remove(name).await?;
            }
        }
    }
    Ok(())
}
