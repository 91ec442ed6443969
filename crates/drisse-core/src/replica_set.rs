//! A target made of a place that runs single replicas: rolling updates, restarts and removal are
//! written once, here.

use crate::{
    BoxStream, Capacity, EventSink, LogOptions, Replica, ReplicaId, RevisionSpec, ServiceName, ServiceSpec,
    Step, Target, TargetError, Unavailable, plan,
};
use async_trait::async_trait;
use futures_util::future::join_all;
use std::fmt::Debug;
use std::time::SystemTime;

/// Something that can run ONE replica at a time: a process, a container, a device's slot.
#[async_trait]
pub trait Place: Debug + Send + Sync {
    /// The kind users name.
    fn kind(&self) -> &'static str;

    /// What is here for services; or why nothing can run here.
    async fn check(&self) -> Result<Capacity, Unavailable>;

    /// Brings here what a revision's replicas need: files, keys in their present state. Harmless when
    /// repeated; called before every start and whenever something may have changed.
    async fn prepare(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<(), TargetError>;

    /// Starts one replica and returns; whether it is ready is for `list` to say.
    async fn start(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<ReplicaId, TargetError>;

    /// Tells a replica to answer what it has and end, or forgets a dead one; does not wait. Absent is fine.
    async fn stop(&self, replica: &ReplicaId) -> Result<(), TargetError>;

    /// What is ours here, of one service or of all.
    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError>;

    /// Names services whose replicas changed.
    fn changes(&self) -> BoxStream<ServiceName>;

    /// What a service's replicas write, the stopped ones' too.
    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError>;

    /// Ends all of a service at once and removes what `prepare` and the replicas left. Absent is fine.
    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError>;
}

/// A target of equal replicas in one place.
#[derive(Debug)]
pub struct ReplicaSet<P>(pub P);

#[async_trait]
impl<P: Place> Target for ReplicaSet<P> {
    fn kind(&self) -> &'static str {
        self.0.kind()
    }

    async fn check(&self) -> Result<Capacity, Unavailable> {
        self.0.check().await
    }

    async fn apply(
        &self,
        wanted: &ServiceSpec,
        events: &dyn EventSink,
    ) -> Result<Option<SystemTime>, TargetError> {
        // One after the other: revisions of a service share its keys file.
        for wanted in &wanted.wanted {
            self.0.prepare(&wanted.revision, events).await?;
        }
        let have = self.0.list(Some(&wanted.service)).await?;
        let plan = plan(wanted, &have, SystemTime::now());
        let steps = plan.steps.iter().map(async |step| match step {
            Step::Start { place } => self.0.start(&wanted.wanted[*place].revision, events).await.map(drop),
            Step::Stop(id) => self.0.stop(id).await,
        });
        // One that fails keeps no other from being taken.
        join_all(steps).await.into_iter().collect::<Result<(), _>>()?;
        Ok(plan.again)
    }

    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError> {
        self.0.list(of).await
    }

    fn changes(&self) -> BoxStream<ServiceName> {
        self.0.changes()
    }

    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError> {
        self.0.remove(service).await
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError> {
        self.0.logs(service, options).await
    }
}
