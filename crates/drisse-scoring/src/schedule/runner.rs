//! A loaded model as the scheduler sees it: its scorer, its queue, and what its runs have shown.

use super::batching::Batching;
use super::run::{Mode, QueuedRequest};
use super::workers::QueueHandle;
use crate::metrics::ModelMetrics;
use drisse_core::{Inputs, ModelName, RowOutputs, Scorer, ScorerLimits, ServiceTime, Signature};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The longest run on a connection's own thread: to pass a request to a worker and back costs 10 to 20 µs, and the
/// other connections of the thread wait no longer than this.
const INLINE: Duration = Duration::from_micros(150);

/// One inline run of this time ends inline runs until a worker has measured a short run again.
const NEVER_INLINE: Duration = Duration::from_millis(20);

/// The number of inline runs of over four times [`INLINE`], less the number of shorter ones, that lowers the limit of
/// inline runs. One run can be slow because its thread was preempted.
const INLINE_STRIKES: u32 = 8;

/// A loaded model that runs requests.
pub(crate) struct Runner {
    pub(crate) name: ModelName,
    pub(crate) signature: Arc<Signature>,
    pub(crate) scorer: Box<dyn Scorer>,
    pub(crate) limits: ScorerLimits,
    pub(crate) queue: QueueHandle<QueuedRequest>,
    pub(crate) batching: Batching,
    pub(crate) metrics: ModelMetrics,
    pub(crate) row_outputs: Arc<RowOutputs>,
    pub(crate) learned: Learned,
    /// Dropped after the scorer, when the model's memory is free: the last field, because fields are dropped in their
    /// order.
    pub(crate) _memory: Option<Box<dyn Any + Send + Sync>>,
}

/// What runs have shown. A race between threads loses at most one measurement.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    service_time: ServiceTime,
    /// Inputs of at most this many bytes run inline.
    inline_bytes: AtomicUsize,
    strikes: AtomicU32,
}

impl Runner {
    /// Returns the estimates of the time of a run.
    pub(crate) fn service_time(&self) -> &ServiceTime {
        &self.learned.service_time
    }

    /// Returns the engine time that one of many waiting requests takes: the time of a run, or the request's part of it
    /// if requests share runs.
    pub(crate) fn amortized(&self) -> Duration {
        let run = self.service_time().mean();
        self.batching.amortized().map_or(run, |amortized| amortized.min(run))
    }

    /// Returns the number of concurrent requests that still increases the throughput: those that run, and those that
    /// are on their way to the server or back meanwhile. A gateway sends at most this many.
    pub(crate) fn useful_concurrency(&self) -> usize {
        /// From the gateway to the server and back, in seconds, decoding and encoding included.
        const ROUND_TRIP: f64 = 1e-3;
        const MOST: f64 = 256.0;
        // The next run can be long although the last was short.
        if !self.limits.steady {
            return self.limits.concurrency;
        }
        let run = self.service_time().mean().as_secs_f64().max(1e-6);
        let at_once = self.limits.concurrency * self.batching.best();
        ((at_once as f64) * (1.0 + ROUND_TRIP / run)).ceil().min(MOST) as usize
    }

    /// Returns whether a run on inputs of `bytes` is short enough for the connection's own thread.
    pub(crate) fn runs_inline(&self, bytes: usize) -> bool {
        bytes <= self.learned.inline_bytes.load(Relaxed)
    }

    /// Learns from a run on `inputs`.
    pub(crate) fn learn(&self, took: Duration, inputs: &Inputs, mode: Mode) {
        let bytes = inputs.byte_len();
        self.learned.service_time.learn(took);
        if let Mode::Queued(requests) = mode {
            self.batching.learn(inputs, requests, took);
        }
        let inline = mode == Mode::Inline;
        let strikes = self.learned.strikes.load(Relaxed);
        match inline {
            // No preemption takes this long: the model is slower than measured before.
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
