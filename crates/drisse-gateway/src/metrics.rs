//! Metrics for Prometheus. Their labels are names of services that have routes, never texts of clients.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::Arc;

/// Bounds of the latency histogram, in seconds.
const SECONDS: [f64; 16] =
    [100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StatusLabels {
    service: String,
    status: &'static str,
}

/// The metrics of a gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<StatusLabels, Counter>,
    time: Family<ServiceLabel, Histogram, fn() -> Histogram>,
    waiting: Family<ServiceLabel, Gauge>,
    retries: Family<ServiceLabel, Counter>,
    pub(crate) unknown: Counter,
    pub(crate) connections: Gauge,
}

/// The metrics of one service.
#[derive(Clone, Debug)]
pub(crate) struct ServiceMetrics {
    /// By the class of the status, from 2xx to 5xx.
    requests: [Arc<Counter>; 4],
    time: Histogram,
    waiting: Gauge,
    pub(crate) retries: Counter,
}

/// Counts a request as queued until dropped.
pub(crate) struct QueuedRequest<'a>(&'a Gauge);

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("drisse_gateway"),
            requests: Family::default(),
            time: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            waiting: Family::default(),
            retries: Family::default(),
            unknown: Counter::default(),
            connections: Gauge::default(),
        };
        let r = &mut metrics.registry;
        r.register("requests", "Requests, by the class of their answer's status", metrics.requests.clone());
        let help = "From a request's head to its answer's head";
        r.register_with_unit("request_time", help, Unit::Seconds, metrics.time.clone());
        r.register("waiting", "Requests that wait for a free replica", metrics.waiting.clone());
        r.register("retries", "Requests sent again because a replica was gone", metrics.retries.clone());
        r.register("unknown", "Requests that name an unknown service", metrics.unknown.clone());
        r.register("connections", "Open connections", metrics.connections.clone());
        metrics
    }
}

impl Metrics {
    pub(crate) fn service(&self, name: &str) -> ServiceMetrics {
        let label = || ServiceLabel { service: name.to_owned() };
        let counter = |status| {
            let labels = StatusLabels { service: name.to_owned(), status };
            Arc::new(self.requests.get_or_create(&labels).clone())
        };
        ServiceMetrics {
            requests: ["2xx", "3xx", "4xx", "5xx"].map(counter),
            time: self.time.get_or_create(&label()).clone(),
            waiting: self.waiting.get_or_create(&label()).clone(),
            retries: self.retries.get_or_create(&label()).clone(),
        }
    }

    pub(crate) fn forget(&self, name: &str) {
        let label = ServiceLabel { service: name.to_owned() };
        for status in ["2xx", "3xx", "4xx", "5xx"] {
            self.requests.remove(&StatusLabels { service: name.to_owned(), status });
        }
        self.time.remove(&label);
        self.waiting.remove(&label);
        self.retries.remove(&label);
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl ServiceMetrics {
    pub(crate) fn finished(&self, status: u16, seconds: f64) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.requests[class].inc();
        self.time.observe(seconds);
    }

    pub(crate) fn waiting(&self) -> QueuedRequest<'_> {
        self.waiting.inc();
        QueuedRequest(&self.waiting)
    }
}

impl Drop for QueuedRequest<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
