//! The targets of a workspace: the built-in ones, and attached ones.

use crate::db::Db;
use crate::db::services::Counted;
use crate::error::{ControlError, Result};
use drisse_core::{Bound, Capacity, ServiceName, Target, lock};
use drisse_reconcile::ReconcileError;
use drisse_wire::control::{Headroom, TargetInfo, TargetSpec};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Creates a target from its name and spec, or returns why it cannot.
pub type Attach =
    Box<dyn Fn(&str, &TargetSpec) -> std::result::Result<Arc<dyn Target>, String> + Send + Sync>;

/// The targets that a control plane can use.
pub struct Targets {
    /// The built-in targets by name, which every workspace has.
    pub own: BTreeMap<String, Arc<dyn Target>>,
    /// Creates attached targets.
    pub attach: Attach,
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets").field("own", &self.own).finish_non_exhaustive()
    }
}

/// The current targets of a workspace.
#[derive(Debug)]
pub(crate) struct TargetTable {
    db: Db,
    targets: Targets,
    now: Mutex<BTreeMap<String, Attached>>,
}

/// A target, and the spec with which it was attached. `spec` is `None` for an unchanged built-in target.
#[derive(Clone, Debug)]
struct Attached {
    target: Arc<dyn Target>,
    spec: Option<TargetSpec>,
}

impl TargetTable {
    /// Returns the built-in targets, and the attached ones in the database.
    pub(crate) async fn open(targets: Targets, db: &Db) -> Result<Arc<Self>> {
        let mut now: BTreeMap<_, _> = own(&targets).collect();
        for (name, spec) in db.attached_targets().await? {
            match target(&targets, &name, &spec) {
                Ok(target) => drop(now.insert(name, Attached { target, spec: Some(spec) })),
                // A later request for this target returns that it was not found.
                Err(why) => tracing::error!(target = name, "cannot attach the target: {why}"),
            }
        }
        Ok(Arc::new(Self { db: db.clone(), targets, now: Mutex::new(now) }))
    }

    fn attached(&self, name: &str) -> Result<Attached> {
        let now = lock(&self.now);
        now.get(name).cloned().ok_or_else(|| {
            let names: Vec<_> = now.keys().map(|name| format!("`{name}`")).collect();
            ControlError::not_found(format!("target `{name}` not found"))
                .hint(format!("the targets are {}; `drisse targets attach` adds one", names.join(", ")))
        })
    }
}

fn own(targets: &Targets) -> impl Iterator<Item = (String, Attached)> {
    let attached = |target: &Arc<dyn Target>| Attached { target: Arc::clone(target), spec: None };
    targets.own.iter().map(move |(name, target)| (name.clone(), attached(target)))
}

/// Returns the target of a spec: a built-in one, or a new one.
fn target(targets: &Targets, name: &str, spec: &TargetSpec) -> std::result::Result<Arc<dyn Target>, String> {
    match targets.own.get(name) {
        Some(own) if own.kind() == spec.kind && spec.socket.is_none() => Ok(Arc::clone(own)),
        Some(own) if own.kind() != spec.kind => {
            Err(format!("every workspace has a target `{name}` of kind {}", own.kind()))
        }
        _ => (targets.attach)(name, spec),
    }
}

impl drisse_reconcile::Targets for TargetTable {
    fn get(&self, name: &str) -> Result<Arc<dyn Target>, ReconcileError> {
        Ok(self.target(name)?)
    }

    fn all(&self) -> Vec<Arc<dyn Target>> {
        lock(&self.now).values().map(|attached| Arc::clone(&attached.target)).collect()
    }
}

impl TargetTable {
    pub(crate) fn target(&self, name: &str) -> Result<Arc<dyn Target>> {
        self.attached(name).map(|attached| attached.target)
    }

    /// Returns the capacity of a target, or an error if it cannot be used.
    pub(crate) async fn capacity(&self, name: &str) -> Result<Capacity> {
        let attached = self.attached(name)?;
        let capacity = attached.target.check().await.map_err(|why| {
            ControlError::invalid(format!("target `{name}` cannot be used: {why}")).hint(why.hint)
        })?;
        let services = attached.spec.and_then(|spec| spec.max_services).or(capacity.services);
        Ok(Capacity { services, ..capacity })
    }

    /// Returns all targets. While the workspace is down, they are not checked.
    pub(crate) async fn infos(&self, at_rest: bool) -> Result<Vec<TargetInfo>> {
        let there: Vec<_> = lock(&self.now).clone().into_iter().collect();
        let mut infos = Vec::new();
        for (name, attached) in there {
            let checked = match at_rest {
                true => Err(ControlError::conflict("the workspace is down")),
                false => self.capacity(&name).await,
            };
            let (capacity, error) = match checked {
                Ok(capacity) => (capacity, None),
                Err(error) => (Capacity::default(), Some(error.failure)),
            };
            let promised = self.db.demand(&name, "").await?.0;
            infos.push(TargetInfo {
                services: promised.services,
                kind: attached.target.kind().to_owned(),
                attached: attached.spec,
                max_services: capacity.services,
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
        // Names of targets follow the rules for names of services.
        name.parse::<ServiceName>().map_err(|error| ControlError::invalid(failed()).because(&error))?;
        let made = target(&self.targets, name, &spec);
        let made = made.map_err(|why| ControlError::invalid(failed()).cause(why))?;
        let before = lock(&self.now).get(name).cloned();
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
        lock(&self.now).insert(name.to_owned(), attached);
        Ok(is_new.then_some(target))
    }

    /// Detaches a target that has no services. A built-in target gets its original settings.
    pub(crate) async fn detach(&self, name: &str) -> Result<()> {
        let attached = self.attached(name)?;
        if attached.spec.is_none() {
            return Err(ControlError::invalid(format!(
                "cannot detach target `{name}`: every workspace has it"
            )));
        }
        let own = own(&self.targets).find(|(own, _)| own == name);
        // A target that continues unchanged may have services.
        let goes_on = own.as_ref().is_some_and(|(_, own)| Arc::ptr_eq(&own.target, &attached.target));
        if !goes_on {
            self.no_services(name, &format!("cannot detach target `{name}`")).await?;
        }
        self.db.keep_target(name, None).await?;
        let mut now = lock(&self.now);
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

fn room(bound: Bound, promised: u64) -> Headroom {
    Headroom { total: bound.most, promised, unenforceable: bound.unenforceable }
}
