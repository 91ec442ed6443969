//! `/metrics` of a whole workspace, for Prometheus. Each scrape merges the metrics of the gateway and of every replica
//! into one text. The samples of a replica get labels for its service and its id.

use crate::control::Control;
use crate::gateway::Gateway;
use bytes::Bytes;
use drisse_core::ReplicaState;
use drisse_net::http::{Address, Ask};
use drisse_net::{Handler, OPENMETRICS, accepted};
use drisse_reconcile::Reconcilers;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a process may take to answer. Then it is left out of the scrape.
const PATIENCE: Duration = Duration::from_secs(3);

/// The header with the timeout of a scrape.
const TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// The handler of requests for metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    gateway: Gateway,
    reconcilers: Reconcilers,
    /// Admits one scrape at a time, because each holds the metrics of all processes in memory.
    turn: Arc<Semaphore>,
}

impl Handler for Metrics {
    type Body = Full<Bytes>;

    async fn handle(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, kind, text) = match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/metrics") => {
                let timeout =
                    request.headers().get(TIMEOUT).and_then(|timeout| timeout.to_str().ok()?.parse().ok());
                let timeout = timeout.and_then(|timeout| Duration::try_from_secs_f64(timeout).ok());
                let patience = timeout.map_or(PATIENCE, |timeout| PATIENCE.min(timeout / 2));
                // The semaphore is never closed.
                let _turn = self.turn.acquire().await;
                let (kind, text) = accepted(request.headers(), self.collect(patience).await);
                (StatusCode::OK, kind, text)
            }
            _ => (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "not found; see /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::new(text.into()));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

/// A process whose metrics are collected.
struct Source {
    /// `process="gateway"`, or a replica's `service="NAME",replica="ID"`. Names need no escaping.
    labels: String,
    admin: Option<Address>,
}

impl Metrics {
    pub(crate) fn new(control: &Control) -> Self {
        let (gateway, reconcilers) = (control.gateway.clone(), control.services.reconcilers.clone());
        Self { gateway, reconcilers, turn: Arc::new(Semaphore::new(1)) }
    }

    async fn collect(&self, patience: Duration) -> String {
        let mut families = Families::default();
        let mut sources =
            vec![Source { labels: "process=\"gateway\"".to_owned(), admin: self.gateway.admin_now() }];
        sources.extend(self.services(&mut families));
        let texts = join_all(sources.iter().map(|source| source.scrape(patience))).await;
        families.about("drisse_up", "Whether a process answered this scrape");
        for (source, text) in sources.iter().zip(texts) {
            families.gauge("drisse_up", &source.labels, u32::from(text.is_some()));
            // The samples of the gateway already have a label for the service.
            let labels = if source.labels.starts_with("service") { &*source.labels } else { "" };
            families.add(&text.unwrap_or_default(), labels);
        }
        families.text()
    }

    /// Adds the numbers of replicas of each service, and returns the replicas that can be scraped.
    fn services(&self, families: &mut Families) -> Vec<Source> {
        let mut sources = Vec::new();
        families.about("drisse_service_wanted", "The number of replicas that should serve requests");
        families.about("drisse_service_replicas", "The number of replicas by state");
        for (service, task) in self.reconcilers.all() {
            let observed = task.observed();
            let seen = observed.borrow();
            families.gauge("drisse_service_wanted", &format!("service=\"{service}\""), seen.wanted);
            let mut states = [("starting", 0), ("ready", 0), ("stopping", 0), ("dead", 0)];
            for replica in &seen.replicas {
                let state = match &replica.state {
                    ReplicaState::Starting { .. } => 0,
                    ReplicaState::Ready { admin, .. } => {
                        let labels = format!("service=\"{service}\",replica=\"{}\"", replica.id);
                        sources.push(Source { labels, admin: admin.as_deref().and_then(Address::parse) });
                        1
                    }
                    ReplicaState::Stopping => 2,
                    ReplicaState::Dead(_) => 3,
                };
                states[state].1 += 1;
            }
            for (state, count) in states {
                let labels = format!("service=\"{service}\",state=\"{state}\"");
                families.gauge("drisse_service_replicas", &labels, count);
            }
        }
        sources
    }
}

impl Source {
    async fn scrape(&self, patience: Duration) -> Option<String> {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(OPENMETRICS))]);
        let asked = self.admin.as_ref()?.ask(Ask { headers, ..Ask::get("/metrics") });
        let (status, body) = tokio::time::timeout(patience, asked).await.ok()?.ok()?;
        (status == 200).then(|| String::from_utf8_lossy(&body).into_owned())
    }
}

/// Families of metrics. OpenMetrics requires the samples of a family to be together, even from several processes.
#[derive(Default)]
struct Families(BTreeMap<String, Family>);

#[derive(Default)]
struct Family {
    /// `# HELP`, `# TYPE` and `# UNIT`, from the first process.
    about: String,
    samples: String,
}

impl Families {
    fn about(&mut self, name: &str, help: &str) {
        let about = format!("# HELP {name} {help}.\n# TYPE {name} gauge\n");
        self.0.entry(name.to_owned()).or_default().about = about;
    }

    fn gauge(&mut self, name: &str, labels: &str, value: u32) {
        let samples = &mut self.0.entry(name.to_owned()).or_default().samples;
        // Writing to a string cannot fail.
        let _ = writeln!(samples, "{name}{{{labels}}} {value}");
    }

    /// Adds the families of a text, and adds `labels` to each sample.
    fn add(&mut self, text: &str, labels: &str) {
        let mut current: Option<(String, bool)> = None;
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(name) = line.strip_prefix("# ").and_then(|rest| rest.split(' ').nth(1)) {
                if current.as_ref().is_none_or(|(current, _)| current != name) {
                    let is_new = self.0.get(name).is_none_or(|family| family.about.is_empty());
                    current = Some((name.to_owned(), is_new));
                }
                if let Some((name, true)) = &current {
                    let about = &mut self.0.entry(name.clone()).or_default().about;
                    let _ = writeln!(about, "{line}");
                }
            } else if let Some((name, _)) = &current {
                labelled(&mut self.0.entry(name.clone()).or_default().samples, line, labels);
            }
        }
    }

    fn text(self) -> String {
        let families = self.0.into_values().filter(|family| !family.samples.is_empty());
        families.map(|family| family.about + &family.samples).collect::<String>() + "# EOF\n"
    }
}

/// Writes a sample, `NAME{LABELS} VALUE` or `NAME VALUE`, with additional labels.
fn labelled(to: &mut String, line: &str, labels: &str) {
    let name = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(name);
    let _ = match rest.strip_prefix('{') {
        _ if labels.is_empty() => writeln!(to, "{line}"),
        Some(rest) if rest.starts_with('}') => writeln!(to, "{name}{{{labels}{rest}"),
        Some(rest) => writeln!(to, "{name}{{{labels},{rest}"),
        None => writeln!(to, "{name}{{{labels}}}{rest}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_family_from_several_processes_are_together() {
        let text = "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                    a_seconds_bucket{le=\"1.0\",model=\"}{ x\"} 1\na_seconds_count 1\n\
                    # HELP b Count.\n# TYPE b counter\nb_total{} 2\n# EOF\n";
        let mut families = Families::default();
        families.add(text, "service=\"s\",replica=\"1\"");
        families.add(text, "service=\"s\",replica=\"2\"");
        families.add("# HELP c Without samples.\n# TYPE c gauge\n# EOF\n", "");
        let both = |sample: &str| {
            ["1", "2"].map(|replica| sample.replace("WHO", &format!("service=\"s\",replica=\"{replica}\"")))
        };
        let [bucket, count] =
            ["a_seconds_bucket{WHO,le=\"1.0\",model=\"}{ x\"} 1\n", "a_seconds_count{WHO} 1\n"].map(both);
        let expected = [
            "# HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n",
            &[&*bucket[0], &count[0], &bucket[1], &count[1]].concat(),
            "# HELP b Count.\n# TYPE b counter\n",
            &both("b_total{WHO} 2\n").concat(),
            "# EOF\n",
        ];
        assert_eq!(families.text(), expected.concat());
    }
}
