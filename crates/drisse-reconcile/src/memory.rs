//! Implementations of the ports in memory, for tests of everything that is built on them.

use crate::{Desired, DesiredService, ReconcileError, Routes, Status, Targets};
use async_trait::async_trait;
use drisse_core::{RevisionSpec, ServiceName, Target, lock};
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// The desired state in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDesired(Arc<Mutex<BTreeMap<ServiceName, DesiredService>>>);

impl MemoryDesired {
    /// Replaces the desired state of a service.
    pub fn want(&self, name: &ServiceName, service: DesiredService) {
        lock(&self.0).insert(name.clone(), service);
    }

    /// Changes the desired state of a service and returns the new generation; `None` if the service does not exist.
    pub fn change(&self, name: &ServiceName, change: impl FnOnce(&mut DesiredService)) -> Option<u64> {
        let mut services = lock(&self.0);
        let service = services.get_mut(name)?;
        change(service);
        service.generation += 1;
        Some(service.generation)
    }

    /// Returns the desired state of a service; `None` if it does not exist.
    pub fn now(&self, name: &ServiceName) -> Option<DesiredService> {
        lock(&self.0).get(name).cloned()
    }
}

#[async_trait]
impl Desired for MemoryDesired {
    async fn services(&self) -> Result<Vec<ServiceName>, ReconcileError> {
        Ok(lock(&self.0).keys().cloned().collect())
    }

    async fn service(&self, name: &ServiceName) -> Result<Option<DesiredService>, ReconcileError> {
        Ok(self.now(name))
    }

    async fn revision(&self, _: &ServiceName, _: u64) -> Result<Option<RevisionSpec>, ReconcileError> {
        Ok(None)
    }

    async fn report(
        &self,
        name: &ServiceName,
        generation: u64,
        status: &Status,
    ) -> Result<(), ReconcileError> {
        if let Some(service) = lock(&self.0).get_mut(name).filter(|service| service.generation == generation)
        {
            service.status = status.clone();
        }
        Ok(())
    }

    async fn forget(&self, name: &ServiceName) -> Result<(), ReconcileError> {
        lock(&self.0).remove(name);
        Ok(())
    }
}

/// Gateways in memory. Clones share their routes.
#[derive(Clone, Debug, Default)]
pub struct MemoryRoutes(Arc<Mutex<Gateways>>);

#[derive(Debug, Default)]
struct Gateways {
    documents: BTreeMap<ServiceName, RouteDocument>,
    /// Every document that was put, in order.
    history: Vec<RouteDocument>,
    /// Replicas with unfinished requests.
    busy: BTreeSet<String>,
    fails: Option<String>,
}

impl MemoryRoutes {
    /// Returns every document that was put in force, in order.
    pub fn history(&self) -> Vec<RouteDocument> {
        lock(&self.0).history.clone()
    }

    /// Sets the replicas with unfinished requests. They drain once the routes do not name them.
    pub fn set_busy(&self, replicas: impl IntoIterator<Item = String>) {
        lock(&self.0).busy = replicas.into_iter().collect();
    }

    /// Makes every call fail with the message `why` from now on; `None` makes calls succeed again.
    pub fn set_failing(&self, why: Option<&str>) {
        lock(&self.0).fails = why.map(str::to_owned);
    }

    fn gateways(&self) -> Result<MutexGuard<'_, Gateways>, ReconcileError> {
        let gateways = lock(&self.0);
        match &gateways.fails {
            Some(why) => Err(ReconcileError::new(why)),
            None => Ok(gateways),
        }
    }
}

#[async_trait]
impl Routes for MemoryRoutes {
    async fn put(&self, document: &RouteDocument) -> Result<RouteAcknowledgement, ReconcileError> {
        let mut gateways = self.gateways()?;
        let name: ServiceName = document.service.parse().map_err(|_| ReconcileError::new("not a name"))?;
        let stale = |there: &RouteDocument| there != document && there.generation >= document.generation;
        if gateways.documents.get(&name).is_some_and(stale) {
            return Err(ReconcileError::new("the document is older than the routes in force"));
        }
        if gateways.documents.insert(name, document.clone()).as_ref() != Some(document) {
            gateways.history.push(document.clone());
        }
        let replicas = document.revisions.iter().flat_map(|revision| &revision.replicas);
        let routed: BTreeSet<_> = replicas.map(|replica| replica.id.clone()).collect();
        let draining = gateways.busy.difference(&routed).cloned().collect();
        Ok(RouteAcknowledgement { generation: document.generation, draining })
    }

    async fn get(&self, service: &ServiceName) -> Result<Option<RouteDocument>, ReconcileError> {
        Ok(self.gateways()?.documents.get(service).cloned())
    }

    async fn remove(&self, service: &ServiceName) -> Result<(), ReconcileError> {
        self.gateways()?.documents.remove(service);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ServiceName>, ReconcileError> {
        Ok(self.gateways()?.documents.keys().cloned().collect())
    }
}

/// A fixed set of targets.
#[derive(Clone, Debug, Default)]
pub struct MemoryTargets(pub BTreeMap<String, Arc<dyn Target>>);

impl Targets for MemoryTargets {
    fn get(&self, name: &str) -> Result<Arc<dyn Target>, ReconcileError> {
        let there = self.0.get(name).cloned();
        there.ok_or_else(|| ReconcileError::new(format!("target `{name}` not found")))
    }

    fn all(&self) -> Vec<Arc<dyn Target>> {
        self.0.values().cloned().collect()
    }
}
