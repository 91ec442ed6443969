//! A target that is made of a place: rolling updates, restarts and removal are written once, here.

use crate::{
    Applied, BoxStream, Capabilities, Capacity, EventSink, LogOptions, Replica, ReplicaId, RevisionSpec,
    ServiceName, ServiceSpec, Step, Target, TargetError, UnavailableError, is_complete, plan,
};
use async_trait::async_trait;
use futures_util::future::join_all;
use std::fmt::Debug;
use std::time::SystemTime;

/// Runs single replicas, each as a process, a container or in a slot of a device.
///
/// Any task may call any method, and [`ReplicaSet`] starts and stops several replicas of a service at the same time.
/// Cancel safety: as for [`Target`]. A replica whose [`start`](Self::start) was interrupted may run:
/// [`list`](Self::list) must report it.
///
/// Errors: [`ReplicaSet::apply`](Target::apply) passes them on, and the control plane calls it again. If an error is
/// [permanent](field@TargetError::permanent), the operation that waits fails at once.
///
/// ```
/// use drisse_core::{Place, ReplicaSet, Target};
///
/// fn target(place: impl Place + 'static) -> Box<dyn Target> {
///     Box::new(ReplicaSet(place))
/// }
/// ```
#[async_trait]
pub trait Place: Debug + Send + Sync {
    /// Returns the kind of target as users write it.
    fn kind(&self) -> &'static str;

    /// Returns what the place offers to all services together.
    ///
    /// # Errors
    /// Returns the reason and a hint if no replica can run here.
    async fn check(&self) -> Result<Capacity, UnavailableError>;

    /// Brings what the replicas of a revision need to the place: files, the current keys. Called before every start
    /// and after every change; calling it again is harmless.
    ///
    /// # Errors
    /// Returns an error if something cannot be brought: no replica is started then.
    async fn prepare(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<(), TargetError>;

    /// Starts one replica and does not wait until it is ready: [`list`](Self::list) reports that.
    ///
    /// # Errors
    /// Returns an error if the replica cannot be started. A replica that starts and then ends is not an error but a
    /// [`Death`](crate::Death).
    async fn start(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<ReplicaId, TargetError>;

    /// Asks a replica to answer the requests that it has and then to end, or forgets a dead replica. Does not wait.
    /// Succeeds if the replica does not exist.
    ///
    /// # Errors
    /// Returns an error if the replica cannot be asked.
    async fn stop(&self, replica: &ReplicaId) -> Result<(), TargetError>;

    /// Returns this workspace's replicas, of one service or of all.
    ///
    /// # Errors
    /// Returns an error if the place does not answer.
    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError>;

    /// Returns a stream of services whose replicas changed; see [`Target::changes`].
    fn changes(&self) -> BoxStream<ServiceName>;

    /// Returns the lines that a service's replicas write, including stopped replicas.
    ///
    /// # Errors
    /// Returns an error if the logs cannot be read.
    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError>;

    /// Ends all replicas of a service at once and removes what [`prepare`](Self::prepare) and the replicas left.
    /// Succeeds if there is nothing.
    ///
    /// # Errors
    /// Returns an error if something could not be removed. Repeat the call: it removes what is left.
    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError>;
}

/// A [`Target`] that runs equal replicas in one [`Place`]. Its [`apply`](Target::apply) prepares the place, computes
/// a [`plan`] and takes the plan's steps.
#[derive(Debug)]
pub struct ReplicaSet<P>(pub P);

#[async_trait]
impl<P: Place> Target for ReplicaSet<P> {
    fn capabilities(&self) -> Capabilities {
        Capabilities::none(self.0.kind())
    }

    async fn check(&self) -> Result<Capacity, UnavailableError> {
        self.0.check().await
    }

    async fn apply(&self, wanted: &ServiceSpec, events: &dyn EventSink) -> Result<Applied, TargetError> {
        // One after the other: revisions of a service share its keys file.
        for revision in wanted.wanted.iter().map(|wanted| &wanted.revision) {
            self.0.prepare(revision, events).await?;
        }
        let have = self.0.list(Some(&wanted.service)).await?;
        let plan = plan(wanted, &have, SystemTime::now());
        let steps = plan.steps.iter().map(async |step| match step {
            Step::Start { index } => self.0.start(&wanted.wanted[*index].revision, events).await.map(drop),
            Step::Stop(id) => self.0.stop(id).await,
        });
        // A failed step does not prevent the others.
        join_all(steps).await.into_iter().collect::<Result<(), _>>()?;
        Ok(Applied { complete: is_complete(wanted, &have), again: plan.again })
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
