//! What all connections share: the models, the keys, the limits, the metrics.

use crate::batching::Batching;
use crate::config::Config;
use crate::http::Scoring;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::model::{Model, ModelSpec};
use crate::repository::Repository;
use crate::residents::{Resident, Residents};
use crate::run::Piece;
use crate::shared_memory::SharedMemory;
use crate::warm;
use crate::workers::Workers;
use arc_swap::ArcSwap;
use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Inputs, Result};
use drisse_net::Handler;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

/// The state of a server.
pub struct App {
    pub(crate) config: Config,
    pub(crate) keys: Option<Keys>,
    pub(crate) metrics: Metrics,
    pub(crate) workers: Workers<Piece>,
    pub(crate) shared_memory: SharedMemory,
    models: ArcSwap<Models>,
    pub(crate) repository: OnceLock<Box<dyn Repository>>,
    /// Where models are loaded when they are asked for.
    pub(crate) residents: OnceLock<Arc<Residents>>,
    ready: AtomicBool,
    draining: AtomicBool,
    pub(crate) nonce: String,
    requests: AtomicU64,
}

/// The models that are served.
#[derive(Debug, Default)]
pub(crate) struct Models {
    in_order: Vec<Arc<Model>>,
    by_name: HashMap<String, usize>,
}

impl Models {
    fn new(in_order: Vec<Arc<Model>>) -> Self {
        let place = |(place, model): (usize, &Arc<Model>)| (model.name.to_string(), place);
        Self { by_name: in_order.iter().enumerate().map(place).collect(), in_order }
    }
}

impl Deref for Models {
    type Target = [Arc<Model>];

    fn deref(&self) -> &Self::Target {
        &self.in_order
    }
}

/// Bytes that count against [`Config::max_held`] until dropped.
pub(crate) struct Held {
    all: Gauge,
    bytes: usize,
    max: i64,
}

/// An answer that counts against [`Config::max_held`] until its last byte is gone.
struct HeldAnswer(Bytes, #[expect(dead_code, reason = "its drop gives the memory back")] Held);

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl App {
    /// A server without models yet. Without `keys` it is open.
    pub fn new(config: Config, keys: Option<Keys>) -> std::io::Result<Arc<Self>> {
        let workers = Workers::start(config.workers)?;
        let random = RandomState::new();
        Ok(Arc::new(Self {
            metrics: Metrics::new(),
            nonce: format!("{:016x}{:016x}", random.hash_one(1), random.hash_one(2)),
            workers,
            shared_memory: SharedMemory::new(&config.shared_memory),
            models: ArcSwap::default(),
            repository: OnceLock::new(),
            residents: OnceLock::new(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            config,
            keys,
        }))
    }

    /// Takes a loaded model in: warms it up, then serves it. A sample that fails is told, not fatal:
    /// a made-up one (zeros) means nothing to some models.
    pub fn add(&self, spec: ModelSpec, warm_up: Option<&Inputs>) {
        let lane = self.workers.add_lane(spec.limits().concurrency);
        let metrics = self.metrics.model(spec.name.as_str());
        let batching = Batching::new(&self.config);
        let residents = self.residents.get();
        let in_memory = residents.and_then(|residents| residents.in_memory(spec.name.as_str()));
        let model = Arc::new(Model::new(spec, lane, batching, metrics, in_memory));
        if let Some(inputs) = warm_up
            && let Err(error) = warm::warm_up(&model, inputs)
        {
            tracing::warn!(model = %model.name, "the sample does not score: {error}");
        }
        self.change(|models| {
            models.retain(|other| other.name != model.name);
            models.push(Arc::clone(&model));
        });
    }

    /// Says what can load models from now on.
    pub fn set_repository(&self, repository: Box<dyn Repository>) {
        // There is one for the server's life.
        let _ = self.repository.set(repository);
    }

    /// Has these models loaded when they are asked for, in `bound` bytes of memory together.
    pub fn load_on_demand(&self, models: Vec<Resident>, bound: u64) {
        // It is said once, before the server is ready.
        let _ = self.residents.set(Residents::new(models, bound));
    }

    /// Changes which models are served.
    pub(crate) fn change(&self, change: impl Fn(&mut Vec<Arc<Model>>)) {
        self.models.rcu(|models| {
            let mut in_order = models.in_order.clone();
            change(&mut in_order);
            Models::new(in_order)
        });
    }

    /// The models, in the order they were added.
    pub(crate) fn models(&self) -> arc_swap::Guard<Arc<Models>> {
        self.models.load()
    }

    /// The model of this name.
    pub(crate) fn model(&self, name: &str) -> Result<Arc<Model>> {
        let models = self.models();
        if let Some(&place) = models.by_name.get(name) {
            return Ok(Arc::clone(&models[place]));
        }
        Err(self.unknown(format!("there is no model `{}`", shown(name))))
    }

    /// The model, when there is exactly one.
    pub(crate) fn only_model(&self) -> Result<Arc<Model>> {
        match &***self.models() {
            [only] if self.residents.get().is_none() => Ok(Arc::clone(only)),
            _ => Err(self.unknown("the path names no model: use /score/NAME".to_owned())),
        }
    }

    fn unknown(&self, what: String) -> Error {
        if !self.ready.load(Relaxed) {
            return Error::new(ErrorKind::Unavailable, "the server is still loading its models");
        }
        let names = self.served_names();
        let served: Vec<_> = names.iter().take(12).map(|name| format!("`{name}`")).collect();
        let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
        Error::new(ErrorKind::NotFound, format!("{what}; this server has {}{more}", served.join(", ")))
    }

    /// Says that every model was added.
    pub fn set_ready(&self) {
        self.ready.store(true, Relaxed);
    }

    /// Says that the server will stop: it is not ready any more, and closes connections as they end.
    pub fn drain(&self) {
        self.draining.store(true, SeqCst);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) && !self.is_draining()
    }

    /// Whether the server was told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(SeqCst)
    }

    /// What answers requests, for [`drisse_net::serve_connection`].
    #[doc(hidden)]
    pub fn handler(self: &Arc<Self>) -> impl Handler<Body: Unpin> + use<> {
        Scoring(Arc::clone(self))
    }

    /// Bytes of bodies that are held now.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> i64 {
        self.metrics.held_bytes.get()
    }

    /// Counts `bytes` as held, or refuses.
    pub(crate) fn hold(&self, bytes: usize) -> Result<Held> {
        let max = i64::try_from(self.config.max_held).unwrap_or(i64::MAX);
        let mut held = Held { all: self.metrics.held_bytes.clone(), bytes: 0, max };
        held.grow(bytes)?;
        Ok(held)
    }

    /// Counts an answer as held until its client has taken it, or refuses. Small ones are not worth it.
    pub(crate) fn hold_answer(&self, answer: Bytes) -> Result<Bytes> {
        const SMALL: usize = 64 << 10;
        if answer.len() <= SMALL {
            return Ok(answer);
        }
        let held = self.hold(answer.len())?;
        Ok(Bytes::from_owner(HeldAnswer(answer, held)))
    }

    /// A request's id, when its client gave none.
    pub(crate) fn next_request_id(&self) -> Bytes {
        let number = self.requests.fetch_add(1, Relaxed);
        // As few digits as it has, at least one.
        let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
        let digit = |nth: u32| b"0123456789abcdef"[(number >> (4 * nth)) as usize & 15];
        let mut id = Vec::with_capacity(32);
        id.extend_from_slice(&self.nonce.as_bytes()[..12]);
        id.push(b'-');
        id.extend((0..digits).rev().map(digit));
        id.into()
    }
}

impl Held {
    /// Counts what is still to come: a quarter of the memory stays free for what is there already.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<()> {
        let max = self.max;
        self.max = max / 4 * 3;
        let grown = if bytes > 0 { self.grow(bytes) } else { Ok(()) };
        self.max = max;
        grown
    }

    /// Counts more. Whoever is alone may be as large as any limit of its own allows, and leaves a quarter of the memory
    /// to those who come meanwhile.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        let before = self.all.inc_by(bytes as i64);
        let others = before - self.bytes as i64;
        self.bytes += bytes;
        if before.saturating_add(bytes as i64) <= self.max {
            return Ok(());
        }
        if others == 0 {
            let counted = (self.max / 4 * 3) as usize;
            self.all.dec_by((self.bytes - counted) as i64);
            self.bytes = counted;
            return Ok(());
        }
        let message = "the bodies and answers of the requests under way fill the memory set aside for them";
        Err(Error::new(ErrorKind::Overloaded, message))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.dec_by(self.bytes as i64);
    }
}

/// A name from a URL as an error repeats it.
fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(64)]
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("models", &self.models()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_larger_than_the_memory_set_aside_leaves_a_quarter_of_it_to_others() {
        let app = App::new(Config { max_held: 1 << 20, ..Config::default() }, None).unwrap();
        let large = app.hold(5 << 20).unwrap();
        let small = app.hold(1 << 18).unwrap();
        assert!(app.hold(1).is_err());
        drop(large);
        assert_eq!(app.held_bytes(), 1 << 18);
        drop(small);
        assert_eq!(app.held_bytes(), 0);
    }
}
