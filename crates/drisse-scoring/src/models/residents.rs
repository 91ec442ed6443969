//! Models that are loaded when they are requested, within a bound on memory.

use super::residency::{ModelIndex, Next, Residency};
use super::{Model, Models, load_panicked};
use crate::memory::resident;
use drisse_core::{Error, ErrorKind, Result, lock};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A load that waits for memory checks again after this time at the latest.
const CHECK_AGAIN: Duration = Duration::from_millis(100);

/// After a failed load, requests do not load the model again before this time has passed, unless an operator does.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A model that is loaded on demand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resident {
    /// The model's name.
    pub name: String,
    /// The size of its files, in bytes: its smallest memory use.
    pub bytes: u64,
}

/// The result of a load; `None` while it continues.
type LoadResult = Option<Result<Arc<Model>>>;

/// The models that are loaded on demand, and their states.
#[derive(Debug)]
pub(crate) struct Residents {
    models: Vec<Resident>,
    state: Mutex<Residency>,
    changed: Condvar,
    /// Current loads; all requests for a model wait for the same one.
    loads: Mutex<HashMap<ModelIndex, watch::Receiver<LoadResult>>>,
    /// The models whose last load failed, when, and why.
    failed: Mutex<HashMap<ModelIndex, (Instant, Error)>>,
    /// The models that an operator has unloaded: requests do not load them.
    withdrawn: Mutex<HashSet<ModelIndex>>,
}

/// Counts a model as being in memory until dropped, which happens after the model itself is dropped.
pub(super) struct InMemory {
    residents: Arc<Residents>,
    index: ModelIndex,
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.residents.lock().unloaded(self.index);
        self.residents.changed.notify_all();
    }
}

impl Residents {
    pub(crate) fn new(models: Vec<Resident>, bound: u64) -> Arc<Self> {
        let state = Mutex::new(Residency::new(bound, models.iter().map(|model| model.bytes)));
        for Resident { name, bytes } in models.iter().filter(|model| model.bytes > bound) {
            let message = "the model is larger than the bound: while it is in memory, no other model is";
            tracing::warn!(model = name, bytes, bound, "{message}");
        }
        let (loads, failed, withdrawn) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { models, state, changed: Condvar::new(), loads, failed, withdrawn })
    }

    pub(super) fn index(&self, name: &str) -> Option<ModelIndex> {
        self.models.iter().position(|model| model.name == name)
    }

    /// Returns the index of a model that a request may load.
    pub(super) fn on_demand(&self, name: &str) -> Option<ModelIndex> {
        self.index(name).filter(|index| !lock(&self.withdrawn).contains(index))
    }

    /// Lets only operators load the model from now on. Returns whether there is such a model.
    pub(super) fn withdraw(&self, name: &str) -> bool {
        self.index(name).map(|index| lock(&self.withdrawn).insert(index)).is_some()
    }

    /// Returns the only model's name if there is exactly one.
    pub(super) fn only(&self) -> Option<&str> {
        if let [only] = &*self.models { Some(&only.name) } else { None }
    }

    /// Returns the guard that the model of this name holds while it is in memory.
    pub(super) fn in_memory(self: &Arc<Self>, name: &str) -> Option<InMemory> {
        Some(InMemory { residents: Arc::clone(self), index: self.index(name)? })
    }

    /// Returns why the model's last load failed, if that was within [`RETRY_AFTER`].
    fn recent_failure(&self, index: ModelIndex) -> Option<Error> {
        let failed = lock(&self.failed);
        failed.get(&index).filter(|(at, _)| at.elapsed() < RETRY_AFTER).map(|(_, error)| error.clone())
    }

    /// Returns why the model's last load failed.
    fn last_failure(&self, name: &str) -> Option<Error> {
        lock(&self.failed).get(&self.index(name)?).map(|(_, error)| error.clone())
    }

    /// Lets requests load the model again, at once.
    pub(super) fn allow(&self, name: &str) {
        let Some(index) = self.index(name) else { return };
        lock(&self.withdrawn).remove(&index);
        lock(&self.failed).remove(&index);
    }

    /// Records that the model accepts no more requests.
    pub(super) fn draining(&self, name: &str) {
        if let Some(index) = self.index(name) {
            self.lock().draining(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Residency> {
        lock(&self.state)
    }

    /// Waits until the model's memory is free, unloading other models. Returns the model if it is loaded meanwhile.
    fn make_space(&self, models: &Models, index: ModelIndex) -> Option<Arc<Model>> {
        let name = &*self.models[index].name;
        loop {
            let used = self.last_used(models);
            let mut state = self.lock();
            match state.next(index, |index| used[index]) {
                Next::Serve => match models.get(name, None) {
                    Ok(model) => return Some(model),
                    // An operator has removed it in this moment.
                    Err(_) => drop(self.changed.wait_timeout(state, CHECK_AGAIN)),
                },
                Next::Load => return None,
                Next::Unload(drained) => {
                    drop(state);
                    self.unload(models, drained, name);
                }
                Next::Wait => drop(self.changed.wait_timeout(state, CHECK_AGAIN)),
            }
        }
    }

    /// Returns when each model was used last. Must be called without the lock, because dropping a model takes it.
    fn last_used(&self, models: &Models) -> Vec<u64> {
        let one = |model: &Resident| models.get(&model.name, None).map_or(0, |model| model.last_used());
        self.models.iter().map(one).collect()
    }

    fn unload(&self, models: &Models, drained: Vec<ModelIndex>, for_model: &str) {
        for index in drained {
            let name = &*self.models[index].name;
            tracing::info!(model = name, for_model, "unloaded to free memory");
            // If an operator has removed it meanwhile, its memory is freed as well.
            let _ = models.remove(name);
        }
    }

    /// Loads the model once there is memory for it. Blocks.
    fn load(&self, models: &Models, index: ModelIndex) -> Result<Arc<Model>> {
        let name = &*self.models[index].name;
        if let Some(model) = self.make_space(models, index) {
            return Ok(model);
        }
        let _one = lock(&models.loading);
        let before = resident();
        let repository = models.repository.get().ok_or_else(|| Error::internal("there is no repository"));
        let loaded = repository.and_then(|repository| repository.load(name));
        let none = || Error::internal("no version was loaded");
        let loaded = loaded.and_then(|loaded| models.replace(name, loaded).ok_or_else(none));
        let bytes = resident().saturating_sub(before).max(self.models[index].bytes);
        let used = self.last_used(models);
        let drained = match &loaded {
            Ok(_) => {
                lock(&self.failed).remove(&index);
                self.lock().loaded(index, bytes, |index| used[index])
            }
            Err(error) => {
                tracing::warn!(model = name, "cannot load the model: {error}");
                lock(&self.failed).insert(index, (Instant::now(), error.clone()));
                self.lock().unloaded(index);
                vec![]
            }
        };
        self.changed.notify_all();
        self.unload(models, drained, name);
        // An operator has unloaded it meanwhile.
        if self.on_demand(name).is_none() {
            let _ = models.remove(name);
        }
        loaded
    }
}

impl Models {
    /// Returns the names of the models that requests may ask for, in memory or not.
    pub(crate) fn served_names(&self) -> Vec<String> {
        match self.residents.get() {
            Some(residents) => {
                let names = residents.models.iter().map(|model| &model.name);
                names.filter(|name| residents.on_demand(name).is_some()).cloned().collect()
            }
            None => self.loaded().highest().map(|model| model.name().to_owned()).collect(),
        }
    }

    /// Checks that requests for this model are answered: it is in memory, or a request loads it.
    pub(crate) fn check_served(&self, name: &str, version: Option<&str>) -> Result<()> {
        let on_demand = || {
            self.residents.get()?.on_demand(name)?;
            let mut known = self.repository.get()?.models().into_iter();
            known.find(|(known, its)| known == name && version.is_none_or(|version| version == its))
        };
        if self.loaded().versions(name).is_empty() && on_demand().is_some() {
            return self.residents.get().and_then(|all| all.last_failure(name)).map_or(Ok(()), Err);
        }
        self.get(name, version).map(drop)
    }

    /// Returns this version of the model of this name; `None`: the highest version. Loads the model first if it is loaded
    /// on demand and not in memory.
    pub(crate) async fn find(
        self: &Arc<Self>,
        name: &str,
        version: Option<&str>,
        deadline: Instant,
    ) -> Result<Arc<Model>> {
        if let Some(residents) = self.residents.get()
            && let Some(index) = residents.on_demand(name)
            && self.loaded().versions(name).is_empty()
        {
            let model = load_once(self, residents, index, deadline).await?;
            // Another request may unload it at once.
            if version.is_none_or(|version| version == model.version) {
                return Ok(model);
            }
        }
        self.get(name, version)
    }
}

/// Waits until the model is loaded, for this request or another.
async fn load_once(
    models: &Arc<Models>,
    residents: &Arc<Residents>,
    index: ModelIndex,
    deadline: Instant,
) -> Result<Arc<Model>> {
    if let Some(error) = residents.recent_failure(index) {
        return Err(error);
    }
    let mut ended = {
        let mut loads = lock(&residents.loads);
        let current = loads.get(&index).cloned();
        current.unwrap_or_else(|| {
            let (sender, receiver) = watch::channel(None);
            loads.insert(index, receiver.clone());
            let (models, residents) = (Arc::clone(models), Arc::clone(residents));
            // The load continues if its client leaves, because the next client asks for the same model. Its entry in
            // `Residents::loads` lives as long, and the runtime of this thread waits for it when it is dropped.
            tokio::task::spawn_blocking(move || {
                let result = residents.load(&models, index);
                lock(&residents.loads).remove(&index);
                let _ = sender.send(Some(result));
            });
            receiver
        })
    };
    let name = &residents.models[index].name;
    match tokio::time::timeout_at(deadline.into(), ended.wait_for(Option::is_some)).await {
        Ok(Ok(result)) => result.clone().unwrap_or_else(|| Err(load_panicked())),
        Ok(Err(_)) => Err(load_panicked()),
        Err(_) => {
            let message = format!("the deadline passed before model `{name}` was loaded");
            Err(Error::new(ErrorKind::DeadlineExceeded, message))
        }
    }
}
