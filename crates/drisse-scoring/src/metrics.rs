//! The metrics that Prometheus reads. Label values come from the server's own tables, never from a client.

use drisse_wire::documents::{self, Statistics};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// Bounds of every latency histogram, in seconds: from less than a tiny model's run to more than the default timeout.
const SECONDS: [f64; 18] = [
    25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 60.0,
];

/// Bounds of the histogram of requests per run.
const REQUESTS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ModelLabel {
    model: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    model: String,
    status: u16,
}

/// The registry and the families in it.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_time: Family<ModelLabel, Histogram, fn() -> Histogram>,
    queue_time: Family<ModelLabel, Histogram, fn() -> Histogram>,
    compute_time: Family<ModelLabel, Histogram, fn() -> Histogram>,
    encode_time: Family<ModelLabel, Histogram, fn() -> Histogram>,
    batch_requests: Family<ModelLabel, Histogram, fn() -> Histogram>,
    waiting: Family<ModelLabel, Gauge>,
    rejected: Family<ModelLabel, Counter>,
    not_finite: Family<ModelLabel, Counter>,
    ignored_columns: Family<ModelLabel, Counter>,
    /// Open connections.
    pub(crate) connections: Gauge,
    /// Bytes of bodies in memory.
    pub(crate) held_bytes: Gauge,
    /// Requests with a missing or wrong key.
    pub(crate) refused_keys: Counter,
    /// Changed keys or certificate files that could not be used.
    pub(crate) reload_failures: Counter,
}

/// The series of one model, looked up once.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    name: String,
    succeeded: Counter,
    requests: Family<RequestLabels, Counter>,
    request_time: Histogram,
    queue_time: Histogram,
    compute_time: Histogram,
    encode_time: Histogram,
    batch_requests: Histogram,
    sums: Sums,
    waiting: Gauge,
    pub(crate) rejected: Counter,
    pub(crate) not_finite: Counter,
    pub(crate) ignored_columns: Counter,
}

/// The sums for V2's statistics, because histograms cannot be read.
#[derive(Default, Debug)]
struct Sums {
    last_inference: AtomicU64,
    success: Sum,
    fail: Sum,
    queue: Sum,
    compute: Sum,
    encode: Sum,
    runs: AtomicU64,
}

/// A number of times, and their sum in nanoseconds.
#[derive(Default, Debug)]
struct Sum(AtomicU64, AtomicU64);

impl Sum {
    fn add(&self, time: Duration) {
        self.0.fetch_add(1, Relaxed);
        self.1.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn get(&self) -> documents::Duration {
        documents::Duration { count: self.0.load(Relaxed), ns: self.1.load(Relaxed) }
    }
}

/// Counts a request as waiting or running until dropped.
pub(crate) struct PendingGuard<'a>(&'a Gauge);

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Returns the milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let histogram = || Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        let mut metrics = Self {
            requests: Family::default(),
            request_time: histogram(),
            queue_time: histogram(),
            compute_time: histogram(),
            encode_time: histogram(),
            batch_requests: Family::new_with_constructor(|| Histogram::new(REQUESTS)),
            waiting: Family::default(),
            rejected: Family::default(),
            not_finite: Family::default(),
            ignored_columns: Family::default(),
            connections: Gauge::default(),
            held_bytes: Gauge::default(),
            refused_keys: Counter::default(),
            reload_failures: Counter::default(),
            registry: Registry::with_prefix("drisse"),
        };
        let r = &mut metrics.registry;
        r.register("requests", "Scoring requests, by model and HTTP status", metrics.requests.clone());
        let unit = Unit::Seconds;
        let help = "From a request's head to its answer";
        r.register_with_unit("request_duration", help, unit.clone(), metrics.request_time.clone());
        let help = "From the queue's end to its start";
        r.register_with_unit("queue_duration", help, unit.clone(), metrics.queue_time.clone());
        let help = "In the engine";
        r.register_with_unit("compute_duration", help, unit.clone(), metrics.compute_time.clone());
        let help = "Encoding the outputs";
        r.register_with_unit("encode_duration", help, unit, metrics.encode_time.clone());
        let help = "Requests that shared a run, for each run on a worker";
        r.register("batch_requests", help, metrics.batch_requests.clone());
        r.register("waiting_requests", "Requests queued or running on a worker", metrics.waiting.clone());
        r.register("rejected_requests", "Requests refused because of overload", metrics.rejected.clone());
        let help = "NaN and infinities that JSON answers carried as null";
        r.register("not_finite_outputs", help, metrics.not_finite.clone());
        let help = "Columns of requests that are not inputs of the model and were ignored";
        r.register("ignored_columns", help, metrics.ignored_columns.clone());
        r.register("connections", "Open connections", metrics.connections.clone());
        r.register("held_bytes", "Bytes of request bodies held", metrics.held_bytes.clone());
        r.register("refused_keys", "Requests whose key was missing or wrong", metrics.refused_keys.clone());
        let help = "Changed key or certificate files that could not be used";
        r.register("reload_failures", help, metrics.reload_failures.clone());
        r.register_collector(Box::new(Process));
        metrics
    }

    pub(crate) fn model(&self, name: &str) -> ModelMetrics {
        let label = ModelLabel { model: name.to_owned() };
        let success = RequestLabels { model: name.to_owned(), status: 200 };
        ModelMetrics {
            name: name.to_owned(),
            succeeded: self.requests.get_or_create(&success).clone(),
            requests: self.requests.clone(),
            request_time: self.request_time.get_or_create(&label).clone(),
            queue_time: self.queue_time.get_or_create(&label).clone(),
            compute_time: self.compute_time.get_or_create(&label).clone(),
            encode_time: self.encode_time.get_or_create(&label).clone(),
            batch_requests: self.batch_requests.get_or_create(&label).clone(),
            sums: Sums::default(),
            waiting: self.waiting.get_or_create(&label).clone(),
            rejected: self.rejected.get_or_create(&label).clone(),
            not_finite: self.not_finite.get_or_create(&label).clone(),
            ignored_columns: self.ignored_columns.get_or_create(&label).clone(),
        }
    }

    /// Returns all metrics, in OpenMetrics' text form.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only if a metric's own encoder fails.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl ModelMetrics {
    /// Records a request that ended.
    pub(crate) fn finished(&self, status: u16, took: Duration) {
        if status == 200 {
            self.succeeded.inc();
            self.sums.success.add(took);
            self.sums.last_inference.store(now(), Relaxed);
        } else {
            self.requests.get_or_create(&RequestLabels { model: self.name.clone(), status }).inc();
            self.sums.fail.add(took);
        }
        self.request_time.observe(took.as_secs_f64());
    }

    /// Records a request's wait in the queue.
    pub(crate) fn queued(&self, waited: Duration) {
        self.queue_time.observe(waited.as_secs_f64());
        self.sums.queue.add(waited);
    }

    /// Records a run. `queued`: the number of requests that shared it on a worker; `None` for an inline run.
    pub(crate) fn ran(&self, computing: Duration, encoding: Duration, queued: Option<usize>) {
        if let Some(requests) = queued {
            self.batch_requests.observe(requests as f64);
        }
        let requests = queued.unwrap_or(1);
        let encoding = encoding / u32::try_from(requests).unwrap_or(u32::MAX).max(1);
        for _ in 0..requests {
            self.compute_time.observe(computing.as_secs_f64());
            self.sums.compute.add(computing);
            self.encode_time.observe(encoding.as_secs_f64());
            self.sums.encode.add(encoding);
        }
        self.sums.runs.fetch_add(1, Relaxed);
    }

    /// Returns V2's statistics since the model was loaded.
    pub(crate) fn statistics(&self) -> Statistics {
        let Sums { last_inference, success, fail, queue, compute, encode, runs } = &self.sums;
        Statistics {
            last_inference: last_inference.load(Relaxed),
            success: success.get(),
            fail: fail.get(),
            queue: queue.get(),
            compute: compute.get(),
            encode: encode.get(),
            runs: runs.load(Relaxed),
        }
    }

    /// Returns when the last request was answered, in milliseconds since 1970; 0 before the first.
    pub(crate) fn last_used(&self) -> u64 {
        self.sums.last_inference.load(Relaxed)
    }

    /// Returns the number of requests that wait or run.
    pub(crate) fn pending(&self) -> u64 {
        u64::try_from(self.waiting.get()).unwrap_or(0)
    }

    /// Counts a request as waiting or running.
    pub(crate) fn begin_pending(&self) -> PendingGuard<'_> {
        self.waiting.inc();
        PendingGuard(&self.waiting)
    }
}

/// The process itself, read from /proc for each scrape.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let memory = ConstGauge::new(i64::try_from(crate::memory::resident()).unwrap_or(i64::MAX));
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let files = ConstGauge::new(i64::try_from(files).unwrap_or(i64::MAX));
        let cpu = ConstCounter::<f64>::new(cpu_seconds());
        let metrics: [(_, _, _, &dyn EncodeMetric); 3] = [
            ("process_resident_memory", "Resident memory", Some(&Unit::Bytes), &memory),
            ("process_open_fds", "Open file descriptors", None, &files),
            ("process_cpu", "Processor time used", Some(&Unit::Seconds), &cpu),
        ];
        metrics.into_iter().try_for_each(|(name, help, unit, metric)| {
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        })
    }
}

/// Returns the user and system time, from /proc/self/stat (fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in parentheses, which may contain spaces.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
