//! Models that are loaded when they are asked for, within a bound on memory.

use crate::app::App;
use crate::memory::resident;
use crate::model::Model;
use drisse_core::{Error, ErrorKind, ModelPlace, Next, Residency, Result};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Whoever makes room for a model looks again after so long at the latest.
const LOOKED_AGAIN: Duration = Duration::from_millis(100);

/// A model that could not be loaded makes no room for itself again before this has passed, unless an operator asks.
const TRIED_AGAIN: Duration = Duration::from_secs(10);

/// A model of the repository, and how much memory it will likely take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resident {
    /// Its name.
    pub name: String,
    /// Bytes of its files: what it takes at least.
    pub bytes: u64,
}

/// How a load ended; none while it goes on.
type Ended = Option<Result<Arc<Model>>>;

/// The models of a server that has not all of them in memory.
#[derive(Debug)]
pub(crate) struct Residents {
    models: Vec<Resident>,
    state: Mutex<Residency>,
    changed: Condvar,
    /// Loads under way, which whoever asks for the same model waits for too.
    loads: Mutex<HashMap<ModelPlace, watch::Receiver<Ended>>>,
    /// Loads that failed last time, when, and why.
    failed: Mutex<HashMap<ModelPlace, (Instant, Error)>>,
    /// Those that an operator has unloaded: nobody's request brings them back.
    withdrawn: Mutex<HashSet<ModelPlace>>,
    /// One at a time: what it takes is measured by what the process takes more.
    loading: Mutex<()>,
}

/// Counts a model as being in memory until dropped, which is after the model itself.
pub(crate) struct InMemory {
    residents: Arc<Residents>,
    place: ModelPlace,
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.residents.lock().unloaded(self.place);
        self.residents.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Residents {
    pub(crate) fn new(models: Vec<Resident>, bound: u64) -> Arc<Self> {
        let state = Mutex::new(Residency::new(bound, models.iter().map(|model| model.bytes)));
        for model in models.iter().filter(|model| model.bytes > bound) {
            let Resident { name, bytes } = model;
            tracing::warn!(
                model = name,
                bytes,
                bound,
                "is larger than the bound: while it is in memory, no other is"
            );
        }
        let (changed, loading) = (Condvar::new(), Mutex::default());
        let (loads, failed, withdrawn) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { models, state, changed, loads, failed, withdrawn, loading })
    }

    pub(crate) fn place(&self, name: &str) -> Option<ModelPlace> {
        self.models.iter().position(|model| model.name == name)
    }

    /// The place of a model that comes when it is asked for.
    pub(crate) fn comes(&self, name: &str) -> Option<ModelPlace> {
        self.place(name).filter(|place| !lock(&self.withdrawn).contains(place))
    }

    /// Whether there is such a model, which comes only when its operator loads it from now on.
    pub(crate) fn withdraw(&self, name: &str) -> bool {
        self.place(name).map(|place| lock(&self.withdrawn).insert(place)).is_some()
    }

    /// The only model's name, when there is exactly one.
    pub(crate) fn only(&self) -> Option<&str> {
        if let [only] = &*self.models { Some(&only.name) } else { None }
    }

    /// What the model of this name holds while it is in memory.
    pub(crate) fn in_memory(self: &Arc<Self>, name: &str) -> Option<InMemory> {
        Some(InMemory { residents: Arc::clone(self), place: self.place(name)? })
    }

    /// Why the last load of a model failed, a moment ago.
    fn failure(&self, place: ModelPlace) -> Option<Error> {
        let failed = lock(&self.failed);
        failed.get(&place).filter(|(at, _)| at.elapsed() < TRIED_AGAIN).map(|(_, error)| error.clone())
    }

    /// Why the last load of a model failed, whenever that was.
    fn last_failure(&self, name: &str) -> Option<Error> {
        lock(&self.failed).get(&self.place(name)?).map(|(_, error)| error.clone())
    }

    /// An operator wants it back, or has mended it.
    pub(crate) fn try_again(&self, name: &str) {
        let Some(place) = self.place(name) else { return };
        lock(&self.withdrawn).remove(&place);
        lock(&self.failed).remove(&place);
    }

    /// The model takes no more requests.
    pub(crate) fn draining(&self, name: &str) {
        if let Some(place) = self.place(name) {
            self.lock().draining(place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Residency> {
        lock(&self.state)
    }

    /// Loads the model at `place` once there is room for it. Blocks.
    fn load(&self, app: &App, place: ModelPlace) -> Result<Arc<Model>> {
        let name = &*self.models[place].name;
        // Asked before the lock is taken: a model that is dropped takes it.
        let last_used = || -> Vec<u64> {
            let one = |model: &Resident| app.model(&model.name).map_or(0, |model| model.last_used());
            self.models.iter().map(one).collect()
        };
        let unload = |gone: Vec<ModelPlace>| {
            for place in gone {
                let gone = &*self.models[place].name;
                tracing::info!(model = gone, for_model = name, "makes room");
                // Removed meanwhile by somebody else: that is as well.
                let _ = app.remove(gone);
            }
        };
        loop {
            let used = last_used();
            let mut state = self.lock();
            match state.next(place, |place| used[place]) {
                Next::Serve => match app.model(name) {
                    Ok(model) => return Ok(model),
                    // Removed by an operator this very moment.
                    Err(_) => drop(self.changed.wait_timeout(state, LOOKED_AGAIN)),
                },
                Next::Load => break,
                Next::Unload(gone) => {
                    drop(state);
                    unload(gone);
                }
                Next::Wait => drop(self.changed.wait_timeout(state, LOOKED_AGAIN)),
            }
        }
        let _one = lock(&self.loading);
        let before = resident();
        let repository = app.repository.get().ok_or_else(|| Error::internal("there is no repository"));
        let loaded = repository.and_then(|repository| repository.load(app, name));
        // Taken before anybody may make it go again.
        let loaded = loaded.and_then(|()| app.model(name));
        let took = resident().saturating_sub(before).max(self.models[place].bytes);
        let used = last_used();
        let gone = match &loaded {
            Ok(_) => {
                lock(&self.failed).remove(&place);
                self.lock().loaded(place, took, |place| used[place])
            }
            Err(error) => {
                tracing::warn!(model = name, "cannot be loaded: {error}");
                lock(&self.failed).insert(place, (Instant::now(), error.clone()));
                self.lock().unloaded(place);
                vec![]
            }
        };
        self.changed.notify_all();
        unload(gone);
        // Withdrawn while it was on its way.
        if self.comes(name).is_none() {
            let _ = app.remove(name);
        }
        loaded
    }
}

impl App {
    /// The names of the models that requests are answered for, whether they are in memory or come there.
    pub(crate) fn served_names(&self) -> Vec<String> {
        match self.residents.get() {
            Some(residents) => {
                let names = residents.models.iter().map(|model| &model.name);
                names.filter(|name| residents.comes(name).is_some()).cloned().collect()
            }
            None => self.models().iter().map(|model| model.name.to_string()).collect(),
        }
    }

    /// A refusal unless requests for this model are answered: it is in memory, or comes there when it is asked for.
    pub(crate) fn check_served(&self, name: &str, version: Option<&str>) -> Result<()> {
        let comes = || {
            self.residents.get()?.comes(name)?;
            let known = self.repository.get()?.models();
            known
                .into_iter()
                .find(|(known, its)| known == name && version.is_none_or(|version| version == its))
        };
        match self.model(name) {
            Ok(model) => model.checked(version).map(drop),
            Err(_) if comes().is_some() => {
                match self.residents.get().and_then(|all| all.last_failure(name)) {
                    Some(failure) => Err(failure),
                    None => Ok(()),
                }
            }
            Err(unknown) => Err(unknown),
        }
    }

    /// The model of this name, loaded first where it is one of those that are when they are asked for.
    pub(crate) async fn wanted(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<Arc<Model>> {
        let found = self.model(name);
        let place = self.residents.get().and_then(|residents| Some((residents, residents.comes(name)?)));
        match place {
            Some((residents, place)) if found.is_err() => load_once(self, residents, place, deadline).await,
            _ => found,
        }
    }
}

/// Waits until the model is loaded, by this request or another.
async fn load_once(
    app: &Arc<App>,
    residents: &Arc<Residents>,
    place: ModelPlace,
    deadline: Instant,
) -> Result<Arc<Model>> {
    if let Some(error) = residents.failure(place) {
        return Err(error);
    }
    let mut ended = {
        let mut loads = lock(&residents.loads);
        let under_way = loads.get(&place).cloned();
        under_way.unwrap_or_else(|| {
            let (tell, told) = watch::channel(None);
            loads.insert(place, told.clone());
            let (app, residents) = (Arc::clone(app), Arc::clone(residents));
            // It goes on when its client leaves: the next one asks for the same.
            tokio::task::spawn_blocking(move || {
                let result = residents.load(&app, place);
                lock(&residents.loads).remove(&place);
                let _ = tell.send(Some(result));
            });
            told
        })
    };
    let name = &residents.models[place].name;
    match tokio::time::timeout_at(deadline.into(), ended.wait_for(Option::is_some)).await {
        Ok(Ok(result)) => result.clone().unwrap_or_else(|| Err(panicked())),
        Ok(Err(_)) => Err(panicked()),
        Err(_) => {
            let message = format!("the deadline passed before model `{name}` was loaded");
            Err(Error::new(ErrorKind::DeadlineExceeded, message))
        }
    }
}

fn panicked() -> Error {
    Error::internal("loading a model panicked; the server's log has the place")
}
