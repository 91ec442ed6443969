//! A real Prometheus scrapes the metrics: every name and number, and every query of the dashboard.

mod dashboard;
mod real;

use crate::deploy::request;
use crate::support::{Serving, root};
use crate::workspace::{Workspace, kill, own_address};
use drisse_testkit::Request;
use real::{Prometheus, get, promtool};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A model whose run time depends on an input value, so that its requests are always queued.
const QUEUED: &str = "crates/drisse-engines/tests/models/slow.onnx";
const STEPS: &str = r#"{"data": [5]}"#;

/// A second round shows that the counters grow.
const ROUNDS: u32 = 2;

/// The values of a metric by the values of two labels.
type Counts = BTreeMap<[String; 2], f64>;

fn counts(prometheus: &Prometheus, metric: &str, labels: [&str; 2]) -> Counts {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let samples = prometheus.query(metric).into_iter();
    samples.map(|(metric, value)| (labels.map(|label| text(&metric[label])), value)).collect()
}

/// Sends rounds of requests, and checks after each round that the metric has grown by exactly these requests. An
/// entry of `round` is a request, its expected status, how often to send it, and the values of the labels.
fn send(prometheus: &Prometheus, metric: &str, labels: [&str; 2], round: &[(&Request, u16, u32, [&str; 2])]) {
    let mut expected = counts(prometheus, metric, labels);
    for _ in 0..ROUNDS {
        for (request, status, times, labels) in round {
            for _ in 0..*times {
                let (got, answer) = request.send().unwrap();
                assert_eq!(got, *status, "{answer}");
            }
            *expected.entry(labels.map(str::to_owned)).or_default() += f64::from(*times);
        }
        prometheus.until("the numbers arrive", || {
            let seen = counts(prometheus, metric, labels);
            (seen == expected).then_some(()).ok_or((seen, &expected))
        });
    }
}

/// Waits for a scrape without an error that has every sample served at `address`.
fn scraped_whole(prometheus: &Prometheus, address: &str) {
    let text = get(address, "/metrics").unwrap();
    assert_eq!(promtool(&text).as_deref(), Some(""), "{text}");
    let served = text.lines().filter(|line| !line.starts_with('#')).count();
    prometheus.until("a whole scrape", || {
        let scraped = prometheus.query("scrape_samples_scraped");
        let target = prometheus.target().unwrap();
        let is_whole = scraped.iter().any(|(_, count)| *count == served as f64);
        let is_fine = target["health"] == "up" && target["lastError"] == "";
        (is_whole && is_fine).then_some(()).ok_or((served, scraped, target))
    });
}

#[test]
fn a_real_prometheus_reads_every_number_of_a_server_and_each_query_of_the_dashboard_has_an_answer() {
    let serving =
        Serving::start(&["examples/digits", QUEUED, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let admin = serving.document["admin"].as_str().unwrap().trim_start_matches("http://");
    let Some(prometheus) = Prometheus::start(admin) else { return };
    let sample = std::fs::read_to_string(root().join("examples/digits/sample.json")).unwrap();
    let to = |model: &str, body: &str| Request::new(&format!("{}/score/{model}", serving.url()), None, body);
    let round = [
        (&to("digits", &sample), 200, 5, ["digits", "200"]),
        (&to("digits", r#"{"data": [[1]]}"#), 400, 3, ["digits", "400"]),
        (&to("slow", STEPS), 200, 4, ["slow", "200"]),
    ];
    send(&prometheus, "drisse_requests_total", ["model", "status"], &round);
    scraped_whole(&prometheus, admin);
    dashboard::has_numbers(&prometheus, false);
    let variables = &dashboard::read()["templating"]["list"];
    let models = variables[1]["definition"].as_str().unwrap();
    let metric = models.strip_prefix("label_values(").unwrap().strip_suffix(", model)").unwrap();
    let models = prometheus.get("/api/v1/label/model/values", &[("match[]", metric)]);
    assert_eq!(models, Some(json!(["digits", "slow"])), "what the dashboard lets choose from");
}

#[test]
fn a_real_prometheus_reads_every_number_of_a_workspace_and_its_rows_of_the_dashboard_have_answers() {
    let workspace = Workspace::new();
    let address = own_address();
    workspace.json(&["up", "--metrics", &address]);
    let deployed = workspace.json(&["deploy", "examples/digits/digits.onnx", "--replicas", "2"]);
    let Some(prometheus) = Prometheus::start(&address) else { return };
    let mut open = request(&deployed);
    open.bytes = String::from_utf8(open.bytes).unwrap().replace("authorization", "x-no-key").into();
    let round = [(&request(&deployed), 200, 5, ["digits", "2xx"]), (&open, 401, 3, ["digits", "4xx"])];
    send(&prometheus, "drisse_gateway_requests_total", ["service", "status"], &round);
    scraped_whole(&prometheus, &address);
    dashboard::has_numbers(&prometheus, true);
    let served = counts(&prometheus, "drisse_request_duration_seconds_count", ["service", "model"]);
    assert_eq!(served.keys().collect::<Vec<_>>(), [&["digits", "digits"].map(str::to_owned)]);
    let ready = counts(&prometheus, "drisse_service_replicas{state=\"ready\"}", ["service", "state"]);
    assert_eq!(ready.values().collect::<Vec<_>>(), [&2.0]);

    // A replica that does not answer is reported as down, and the scrape has everything else.
    prometheus.until("one is silent", || {
        // The control plane replaces the replica after 10 s: then its successor is stopped.
        workspace.replicas("digits").first().inspect(|replica| kill(**replica, "-STOP"));
        let up = prometheus.query("drisse_up == 0 and on() count(drisse_up == 1) == 2");
        (up.len() == 1).then_some(()).ok_or_else(|| prometheus.query("drisse_up"))
    });
    workspace.replicas("digits").first().inspect(|replica| kill(**replica, "-CONT"));
    // The setting is stored until `--no-metrics` removes it.
    workspace.json(&["down"]);
    assert_eq!(workspace.json(&["up"])["metrics"], *address);
    assert!(get(&address, "/metrics").unwrap().contains("drisse_up{process=\"gateway\"}"));
    assert_eq!(get(&address, "/v1/services").unwrap(), "not found; see /metrics\n", "and nothing else");
    assert_eq!(workspace.json(&["up", "--no-metrics"])["metrics"], Value::Null);
    assert_eq!(get(&address, "/metrics"), None);
}
