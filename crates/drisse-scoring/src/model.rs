//! One served model, and what the server has learned of it.

use crate::batching::Batching;
use crate::metrics::{ModelMetrics, now};
use crate::residents::InMemory;
use crate::run::{How, Piece};
use crate::workers::LaneHandle;
use drisse_core::{
    Error, ErrorKind, Inputs, ModelName, Result, Scorer, ScorerLimits, ServiceTime, Signature,
};
use drisse_wire::documents::Model as Described;
use drisse_wire::v2::AnswerParts;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A run at most this long may happen on the connection's own thread: a hop to a worker
/// and back costs 10 to 20 µs, and the other connections of the thread wait no longer than this.
const INLINE: Duration = Duration::from_micros(150);

/// One inline run this long ends inline runs until a worker has shown a short one again.
const NEVER_INLINE: Duration = Duration::from_millis(20);

/// Runs on the connection's thread that took over four times [`INLINE`], net of shorter ones,
/// before the ceiling comes down: one preempted run is no reason.
const INLINE_STRIKES: u32 = 8;

/// A model that was loaded, as the server is told of it.
pub struct ModelSpec {
    /// The name in paths and answers.
    pub name: ModelName,
    /// The version, as V2 prints it.
    pub version: String,
    /// The digest of its files.
    pub digest: String,
    /// What it takes and gives.
    pub signature: Signature,
    /// V2's `platform`: which engine and format.
    pub platform: &'static str,
    /// A `/score` body this model takes.
    pub sample: Option<String>,
    /// Runs at once; as many as the model says it gains from, where it is not said.
    pub workers: Option<usize>,
    /// The model itself.
    pub scorer: Box<dyn Scorer>,
}

impl ModelSpec {
    /// What its scorer says of itself, and the operator of that.
    pub(crate) fn limits(&self) -> ScorerLimits {
        let limits = self.scorer.limits();
        ScorerLimits { concurrency: self.workers.unwrap_or(limits.concurrency), ..limits }
    }
}

/// A served model.
pub(crate) struct Model {
    pub(crate) name: ModelName,
    pub(crate) version: String,
    pub(crate) platform: &'static str,
    pub(crate) signature: Arc<Signature>,
    pub(crate) parts: Arc<AnswerParts>,
    pub(crate) sample: Option<String>,
    pub(crate) scorer: Box<dyn Scorer>,
    pub(crate) limits: ScorerLimits,
    pub(crate) lane: LaneHandle<Piece>,
    pub(crate) batching: Batching,
    pub(crate) metrics: ModelMetrics,
    pub(crate) digest: String,
    learned: Learned,
    loaded_at: u64,
    /// Dropped last: only then the memory is free.
    _in_memory: Option<InMemory>,
}

/// What runs have shown. Races between threads lose an update, not more.
#[derive(Debug, Default)]
struct Learned {
    /// How long a run takes.
    service_time: ServiceTime,
    /// Inputs of at most this many bytes run inline.
    inline_bytes: AtomicUsize,
    strikes: AtomicU32,
}

impl Model {
    pub(crate) fn new(
        spec: ModelSpec,
        lane: LaneHandle<Piece>,
        batching: Batching,
        metrics: ModelMetrics,
        in_memory: Option<InMemory>,
    ) -> Self {
        let limits = spec.limits();
        Self {
            parts: Arc::new(AnswerParts::new(spec.name.as_str(), &spec.version, &spec.signature)),
            signature: Arc::new(spec.signature),
            name: spec.name,
            version: spec.version,
            platform: spec.platform,
            sample: spec.sample,
            scorer: spec.scorer,
            limits,
            lane,
            batching,
            metrics,
            digest: spec.digest,
            learned: Learned::default(),
            loaded_at: now(),
            _in_memory: in_memory,
        }
    }

    /// As documents describe it.
    pub(crate) fn described(&self) -> Described<'_> {
        let (name, version) = (self.name.as_str(), &*self.version);
        Described { name, version, platform: self.platform, signature: &self.signature }
    }

    /// This model, unless another `version` is asked for.
    pub(crate) fn checked(self: Arc<Self>, version: Option<&str>) -> Result<Arc<Self>> {
        version.map_or(Ok(()), |version| self.check_version(version)).map(|()| self)
    }

    /// A refusal unless `version` is this model's.
    fn check_version(&self, version: &str) -> Result<()> {
        if version == self.version {
            return Ok(());
        }
        let (name, serves) = (&self.name, &self.version);
        let message = format!("model `{name}` has no version `{version}`; the one served is `{serves}`");
        Err(Error::new(ErrorKind::NotFound, message))
    }

    /// When it was used last, or loaded, in milliseconds since 1970.
    pub(crate) fn last_used(&self) -> u64 {
        self.metrics.last_used().max(self.loaded_at)
    }

    /// How long a run takes.
    pub(crate) fn service_time(&self) -> &ServiceTime {
        &self.learned.service_time
    }

    /// What a request takes of the engine's time where many wait: a run, or its share of one.
    pub(crate) fn share(&self) -> Duration {
        let run = self.service_time().mean();
        self.batching.share().map_or(run, |share| share.min(run))
    }

    /// Requests at once that still make it faster: those that run, and those on their way there and back
    /// meanwhile. What a gateway sends at most.
    pub(crate) fn useful_concurrency(&self) -> usize {
        /// From the gateway to the server and back, decoding and encoding included.
        const ROUND_TRIP: f64 = 1e-3;
        const MOST: f64 = 256.0;
        // The next run may be as long as the last was short.
        if !self.limits.steady {
            return self.limits.concurrency;
        }
        let run = self.service_time().mean().as_secs_f64().max(1e-6);
        let at_once = self.limits.concurrency * self.batching.best();
        ((at_once as f64) * (1.0 + ROUND_TRIP / run)).ceil().min(MOST) as usize
    }

    /// Whether a run on inputs of `bytes` is short enough for the connection's own thread.
    pub(crate) fn runs_inline(&self, bytes: usize) -> bool {
        bytes <= self.learned.inline_bytes.load(Relaxed)
    }

    /// Learns from a run on `inputs` that took so long.
    pub(crate) fn learn(&self, took: Duration, inputs: &Inputs, how: How) {
        let bytes = inputs.byte_len();
        match how {
            How::Inline => self.learned.service_time.learn(took),
            How::Queued(requests) => {
                self.learned.service_time.learn(took);
                self.batching.learn(inputs, requests, took);
            }
        }
        let inline = how == How::Inline;
        let strikes = self.learned.strikes.load(Relaxed);
        match inline {
            // No preemption takes this long: the model is not what it seemed.
            true if took > NEVER_INLINE => self.learned.inline_bytes.store(0, Relaxed),
            true if took > 4 * INLINE && strikes + 1 >= INLINE_STRIKES => {
                self.learned.inline_bytes.store(bytes / 2, Relaxed);
                self.learned.strikes.store(0, Relaxed);
            }
            true if took > 4 * INLINE => self.learned.strikes.store(strikes + 1, Relaxed),
            true if strikes > 0 => self.learned.strikes.store(strikes - 1, Relaxed),
            false if self.limits.steady && took <= INLINE => {
                self.learned.inline_bytes.fetch_max(bytes, Relaxed);
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({}:{})", self.name, self.version)
    }
}
