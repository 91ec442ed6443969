//! The targets of a workspace: those that each has, and those that were attached.

use crate::db::Db;
use crate::db::services::Counted;
use crate::error::{ControlError, Result};
use drisse_core::{Bound, Capacity, ServiceName, Target};
use drisse_reconcile::ReconcileError;
use drisse_wire::control::{Room, TargetInfo, TargetSpec};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Makes a target of a name as it is attached; or says why there is no such kind.
pub type Attach =
    Box<dyn Fn(&str, &TargetSpec) -> std::result::Result<Arc<dyn Target>, String> + Send + Sync>;

/// What a workspace has to run services.
pub struct Targets {
    /// What every workspace has.
    pub own: BTreeMap<String, Arc<dyn Target>>,
    /// How others are made.
    pub attach: Attach,
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets").field("own", &self.own).finish_non_exhaustive()
    }
}

/// The targets there are now.
#[derive(Debug)]
pub(crate) struct TargetTable {
    db: Db,
    targets: Targets,
    now: Mutex<BTreeMap<String, Attached>>,
}

/// A target, and how it was attached where not every workspace has it so.
#[derive(Clone, Debug)]
struct Attached {
    target: Arc<dyn Target>,
    spec: Option<TargetSpec>,
}

impl TargetTable {
    /// Those of a workspace that opens.
    pub(crate) async fn open(targets: Targets, db: &Db) -> Result<Arc<Self>> {
        let mut now: BTreeMap<_, _> = own(&targets).collect();
        for (name, spec) in db.attached_targets().await? {
            match target(&targets, &name, &spec) {
                Ok(target) => drop(now.insert(name, Attached { target, spec: Some(spec) })),
                // One that this Drisse cannot make is told of where it is asked for: it is not there.
                Err(why) => tracing::error!(target = name, "is not attached: {why}"),
            }
        }
        Ok(Arc::new(Self { db: db.clone(), targets, now: Mutex::new(now) }))
    }

    fn now(&self) -> MutexGuard<'_, BTreeMap<String, Attached>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attached(&self, name: &str) -> Result<Attached> {
        let now = self.now();
        now.get(name).cloned().ok_or_else(|| {
            let there: Vec<_> = now.keys().map(|name| format!("`{name}`")).collect();
            ControlError::not_found(format!("there is no target `{name}`"))
                .hint(format!("there is {}; `drisse targets attach` adds one", there.join(", ")))
        })
    }
}

fn own(targets: &Targets) -> impl Iterator<Item = (String, Attached)> {
    let attached = |target: &Arc<dyn Target>| Attached { target: Arc::clone(target), spec: None };
    targets.own.iter().map(move |(name, target)| (name.clone(), attached(target)))
}

/// The target that a description means: one of the workspace's own, or another one.
fn target(targets: &Targets, name: &str, spec: &TargetSpec) -> std::result::Result<Arc<dyn Target>, String> {
    match targets.own.get(name) {
        Some(own) if own.kind() == spec.kind && spec.socket.is_none() => Ok(Arc::clone(own)),
        Some(own) if own.kind() != spec.kind => {
            Err(format!("every workspace has a target `{name}` that is of kind {}", own.kind()))
        }
        _ => (targets.attach)(name, spec),
    }
}

impl drisse_reconcile::Targets for TargetTable {
    fn get(&self, name: &str) -> Result<Arc<dyn Target>, ReconcileError> {
        Ok(self.target(name)?)
    }

    fn all(&self) -> Vec<Arc<dyn Target>> {
        self.now().values().map(|attached| Arc::clone(&attached.target)).collect()
    }
}

impl TargetTable {
    pub(crate) fn target(&self, name: &str) -> Result<Arc<dyn Target>> {
        self.attached(name).map(|attached| attached.target)
    }

    /// What a target has; a error where it cannot be used.
    pub(crate) async fn capacity(&self, name: &str) -> Result<Capacity> {
        let attached = self.attached(name)?;
        let capacity = attached.target.check().await.map_err(|why| {
            ControlError::invalid(format!("target `{name}` cannot be used: {why}")).hint(why.hint)
        })?;
        let groups = attached.spec.and_then(|spec| spec.max_services).or(capacity.groups);
        Ok(Capacity { groups, ..capacity })
    }

    pub(crate) async fn infos(&self) -> Result<Vec<TargetInfo>> {
        let there: Vec<_> = self.now().clone().into_iter().collect();
        let mut infos = Vec::new();
        for (name, attached) in there {
            let (capacity, error) = match self.capacity(&name).await {
                Ok(capacity) => (capacity, None),
                Err(error) => (Capacity::default(), Some(error.failure)),
            };
            let promised = self.db.demand(&name, "").await?.0;
            infos.push(TargetInfo {
                services: promised.groups,
                kind: attached.target.kind().to_owned(),
                attached: attached.spec,
                max_services: capacity.groups,
                cpu_millis: room(capacity.cpu, promised.cpu),
                memory_bytes: room(capacity.memory, promised.memory),
                error,
                name,
            });
        }
        Ok(infos)
    }

    /// Attaches a target, or changes how it is attached. Returns the target if it was not there before.
    pub(crate) async fn attach(&self, name: &str, spec: TargetSpec) -> Result<Option<Arc<dyn Target>>> {
        let failed = || format!("cannot attach target `{name}`");
        // Names of targets stand where those of services do.
        name.parse::<ServiceName>().map_err(|error| ControlError::invalid(failed()).because(&error))?;
        let made = target(&self.targets, name, &spec);
        let made = made.map_err(|why| ControlError::invalid(failed()).cause(why))?;
        let before = self.now().get(name).cloned();
        let same = |attached: &Attached| {
            let socket = attached.spec.as_ref().and_then(|spec| spec.socket.as_ref());
            attached.target.kind() == spec.kind && socket == spec.socket.as_ref()
        };
        let (target, is_new) = match before {
            Some(before) if same(&before) => (before.target, false),
            _ => {
                self.no_services(name, &failed()).await?;
                made.check()
                    .await
                    .map_err(|why| ControlError::invalid(failed()).cause(why.reason).hint(why.hint))?;
                (made, true)
            }
        };
        self.db.keep_target(name, Some(&spec)).await?;
        let attached = Attached { target: Arc::clone(&target), spec: Some(spec) };
        self.now().insert(name.to_owned(), attached);
        Ok(is_new.then_some(target))
    }

    /// Detaches a target that nothing runs on; one that every workspace has is as it was at first.
    pub(crate) async fn detach(&self, name: &str) -> Result<()> {
        let attached = self.attached(name)?;
        if attached.spec.is_none() {
            return Err(ControlError::invalid(format!(
                "target `{name}` is not attached: every workspace has it"
            )));
        }
        let own = own(&self.targets).find(|(own, _)| own == name);
        // What goes on as it is may have services.
        let goes_on = own.as_ref().is_some_and(|(_, own)| Arc::ptr_eq(&own.target, &attached.target));
        if !goes_on {
            self.no_services(name, &format!("cannot detach target `{name}`")).await?;
        }
        self.db.keep_target(name, None).await?;
        let mut now = self.now();
        now.remove(name);
        now.extend(own);
        Ok(())
    }

    async fn no_services(&self, target: &str, what: &str) -> Result<()> {
        match self.db.service_counts(Counted::Target).await?.get(target) {
            None | Some(0) => Ok(()),
            Some(services) => {
                let services = format!("{services} service{}", if *services == 1 { "" } else { "s" });
                Err(ControlError::conflict(format!("{what}: it has {services}"))
                    .hint(format!("`drisse services --target {target}` lists them; delete them first")))
            }
        }
    }
}

fn room(bound: Bound, promised: u64) -> Room {
    Room { total: bound.most, promised, unenforceable: bound.unenforceable }
}
