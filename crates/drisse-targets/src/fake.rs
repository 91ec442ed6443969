//! A place without processes whose replicas start, fail and die as a script says. A real backend for
//! tests of everything above the seam, and for a thousand services on one machine.

use crate::changes::Changes;
use async_trait::async_trait;
use drisse_core::{
    Applied, BoxStream, Capabilities, Capacity, Death, EventSink, LogOptions, Place, Replica, ReplicaId,
    ReplicaState, RevisionSpec, ServiceName, ServiceSpec, Target, TargetError, UnavailableError, lock,
};
use drisse_net::{Tasks, channel_stream, random_id};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How the place behaves. The default does everything at once and never fails.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// This many starts are refused.
    pub refuse_starts: usize,
    /// This many replicas die before they are ready.
    pub die_before_ready: usize,
    /// Every replica of the service of this name dies before it is ready.
    pub die_in: Option<String>,
    /// Whether early deaths say that trying again is in vain.
    pub permanent: bool,
    /// How long until a replica is ready.
    pub start_time: Duration,
    /// A replica that is ready dies after this.
    pub die_after: Option<Duration>,
    /// `list` never answers.
    pub list_hangs: bool,
    /// A log breaks off after this many lines, although it is followed.
    pub cut_logs: Option<usize>,
    /// Nothing can run here, for this reason.
    pub unavailable: Option<String>,
}

/// The place. A clone is the same place, as a control plane that starts again finds it.
#[derive(Clone, Debug)]
pub struct Fake(Arc<FakeState>);

#[derive(Debug, Default)]
struct FakeState {
    script: Mutex<Script>,
    replicas: Mutex<BTreeMap<ReplicaId, Replica>>,
    logs: Mutex<HashMap<ServiceName, Vec<String>>>,
    changes: Changes,
    tasks: Tasks,
}

impl Fake {
    /// A place that follows `script`.
    pub fn new(script: Script) -> Self {
        Self(Arc::new(FakeState { script: Mutex::new(script), ..FakeState::default() }))
    }

    /// Behaves otherwise from now on.
    pub fn follow(&self, script: Script) {
        *lock(&self.0.script) = script;
    }

    /// Ends a replica from outside, as an operator with `kill` would.
    pub fn kill(&self, id: &ReplicaId) {
        self.0.set(id, |_| Some(died(false, false)));
    }
}

impl FakeState {
    /// Changes a replica's state, unless it is gone or has ended.
    fn set(&self, id: &ReplicaId, next: impl FnOnce(&ReplicaState) -> Option<ReplicaState>) {
        let mut replicas = lock(&self.replicas);
        let Some(replica) = replicas.get_mut(id).filter(|replica| replica.is_up()) else { return };
        if let Some(state) = next(&replica.state) {
            replica.state = state;
            let service = replica.service.clone();
            drop(replicas);
            self.changes.tell(&service);
        }
    }

    fn log(&self, service: &ServiceName, line: String) {
        lock(&self.logs).entry(service.clone()).or_default().push(line);
        self.changes.tell(service);
    }
}

fn died(before_ready: bool, permanent: bool) -> ReplicaState {
    ReplicaState::Dead(Death {
        at: SystemTime::now(),
        reason: "died as scripted".to_owned(),
        failed: true,
        before_ready,
        permanent,
        log: vec!["the last line".to_owned()],
    })
}

#[async_trait]
impl Place for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }

    async fn check(&self) -> Result<Capacity, UnavailableError> {
        match &lock(&self.0.script).unavailable {
            Some(reason) => {
                Err(UnavailableError { reason: reason.clone(), hint: "change the script".to_owned() })
            }
            None => Ok(Capacity::default()),
        }
    }

    async fn prepare(&self, _: &RevisionSpec, _: &dyn EventSink) -> Result<(), TargetError> {
        Ok(())
    }

    async fn start(&self, revision: &RevisionSpec, _: &dyn EventSink) -> Result<ReplicaId, TargetError> {
        let (dies, permanent, start_time, die_after) = {
            let mut script = lock(&self.0.script);
            if script.refuse_starts > 0 {
                script.refuse_starts -= 1;
                return Err(TargetError::new("the start was refused, as scripted"));
            }
            let cursed = script.die_in.as_deref() == Some(revision.service.as_str());
            let dies = script.die_before_ready > 0 || cursed;
            script.die_before_ready = script.die_before_ready.saturating_sub(1);
            (dies, script.permanent, script.start_time, script.die_after)
        };
        let id = ReplicaId::new(&random_id()).expect("hexadecimal digits");
        let (service, number) = (revision.service.clone(), revision.revision);
        self.0.log(&service, format!("replica {id} of revision {number} starts"));
        let state = ReplicaState::Starting { since: SystemTime::now() };
        let replica = Replica { id: id.clone(), service, revision: number, outdated: false, state };
        lock(&self.0.replicas).insert(id.clone(), replica);
        let (shared, replica) = (Arc::clone(&self.0), id.clone());
        self.0.tasks.spawn(async move {
            tokio::time::sleep(start_time).await;
            shared.set(&replica, |_| {
                let ready = ReplicaState::Ready {
                    since: SystemTime::now(),
                    address: format!("unix:/fake/{replica}"),
                    admin: None,
                    concurrency: 1,
                    keys_confirmed: true,
                };
                Some(if dies { died(true, permanent) } else { ready })
            });
            if let Some(life) = die_after {
                tokio::time::sleep(life).await;
                shared.set(&replica, |_| Some(died(false, false)));
            }
        });
        Ok(id)
    }

    async fn stop(&self, replica: &ReplicaId) -> Result<(), TargetError> {
        let stopped = lock(&self.0.replicas).remove(replica);
        if let Some(replica) = stopped {
            self.0.log(&replica.service, format!("replica {} stopped", replica.id));
        }
        Ok(())
    }

    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError> {
        if lock(&self.0.script).list_hangs {
            std::future::pending::<()>().await;
        }
        let replicas = lock(&self.0.replicas);
        let wanted = replicas.values().filter(|replica| of.is_none_or(|of| replica.service == *of));
        Ok(wanted.cloned().collect())
    }

    fn changes(&self) -> BoxStream<ServiceName> {
        self.0.changes.stream()
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError> {
        let all = lock(&self.0.logs).get(service).cloned().unwrap_or_default();
        let mut next = all.len().saturating_sub(options.lines);
        let cut = lock(&self.0.script).cut_logs.unwrap_or(usize::MAX);
        let (shared, service) = (Arc::clone(&self.0), service.clone());
        let stream = channel_stream(async move |lines: tokio::sync::mpsc::Sender<String>| {
            use futures_util::StreamExt;
            let mut changes = shared.changes.stream();
            let mut sent = 0;
            loop {
                let fresh = lock(&shared.logs).get(&service).map_or(vec![], |all| all[next..].to_vec());
                next += fresh.len();
                for line in fresh {
                    if sent == cut || lines.send(line).await.is_err() {
                        return;
                    }
                    sent += 1;
                }
                if !options.follow {
                    return;
                }
                tokio::select! {
                    _ = changes.next() => {}
                    () = lines.closed() => return,
                }
            }
        });
        Ok(Box::pin(stream))
    }

    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError> {
        lock(&self.0.replicas).retain(|_, replica| replica.service != *service);
        lock(&self.0.logs).remove(service);
        self.0.changes.tell(service);
        Ok(())
    }
}

/// A cluster with rolling updates and autoscaling of its own, as Kubernetes has them: a target that is not made of a
/// [`Place`] and owns how many replicas there are and which of them ends. Its replicas are those of a [`Fake`].
#[derive(Clone, Debug)]
pub struct FakeCluster {
    place: Fake,
    /// What an autoscaler has set, by service.
    scaled: Arc<Mutex<HashMap<ServiceName, u32>>>,
}

impl FakeCluster {
    /// A cluster whose replicas follow `script`.
    pub fn new(script: Script) -> Self {
        Self { place: Fake::new(script), scaled: Arc::default() }
    }

    /// Sets the number of replicas of a service, as an autoscaler does, whatever is asked for.
    pub fn scale(&self, service: &ServiceName, replicas: u32) {
        lock(&self.scaled).insert(service.clone(), replicas);
        self.place.0.changes.tell(service);
    }
}

#[async_trait]
impl Target for FakeCluster {
    fn capabilities(&self) -> Capabilities {
        Capabilities { kind: "fake-cluster", drains_itself: true, scales_itself: true }
    }

    async fn check(&self) -> Result<Capacity, UnavailableError> {
        self.place.check().await
    }

    async fn apply(&self, wanted: &ServiceSpec, events: &dyn EventSink) -> Result<Applied, TargetError> {
        let scaled = lock(&self.scaled).get(&wanted.service).copied();
        let have = self.place.list(Some(&wanted.service)).await?;
        let of = |revision: u64| have.iter().filter(move |replica| replica.revision == revision);
        let mut complete = true;
        for wanted in &wanted.wanted {
            let number = wanted.revision.revision;
            let replicas = scaled.unwrap_or(wanted.replicas) as usize;
            let up: Vec<_> = of(number).filter(|replica| replica.is_up()).collect();
            // Three deaths are a crash loop, which is left alone.
            let crashes = of(number).filter(|replica| replica.death().is_some()).count();
            for _ in up.len()..if crashes < 3 { replicas } else { up.len() } {
                self.place.start(&wanted.revision, events).await?;
            }
            for surplus in up.iter().skip(replicas) {
                self.place.stop(&surplus.id).await?;
            }
            complete &= up.iter().filter(|replica| replica.is_ready()).count() == replicas;
        }
        let is_wanted = |number| wanted.wanted.iter().any(|wanted| wanted.revision.revision == number);
        // The cluster's own rolling update: old replicas end once the new ones are ready, even if routes name them.
        for old in have.iter().filter(|replica| complete && !is_wanted(replica.revision)) {
            self.place.stop(&old.id).await?;
        }
        Ok(Applied { complete, again: None })
    }

    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError> {
        self.place.list(of).await
    }

    fn changes(&self) -> BoxStream<ServiceName> {
        self.place.changes()
    }

    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError> {
        self.place.remove(service).await
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError> {
        self.place.logs(service, options).await
    }
}
