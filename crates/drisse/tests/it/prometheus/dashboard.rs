//! The dashboard's queries, as Grafana would send them.

use super::real::Prometheus;
use crate::support::root;
use serde_json::Value;

/// What only a control plane's `/metrics` has: one of these is in every query of the gateway's and the services' rows.
const WORKSPACE: [&str; 3] = ["drisse_gateway_", "drisse_service_", "drisse_up"];

/// The dashboard as it is handed out.
pub(crate) fn read() -> Value {
    let text = std::fs::read_to_string(root().join("dashboards/drisse.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every query of every panel, variables replaced: those of a workspace or those of a server.
pub(crate) fn queries(of_workspace: bool) -> Vec<String> {
    let dashboard = read();
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let targets = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        targets
    });
    let queries = targets.map(|target| {
        assert_eq!(target["datasource"]["uid"], "${datasource}");
        let query = target["expr"].as_str().unwrap();
        query.replace("$__rate_interval", "1m").replace("$model", ".*")
    });
    queries.filter(|query| WORKSPACE.iter().any(|name| query.contains(name)) == of_workspace).collect()
}

/// Asks each of them: it is understood, and has a number to show.
pub(crate) fn has_numbers(prometheus: &Prometheus, of_workspace: bool) {
    let queries = queries(of_workspace);
    assert!(queries.len() >= 8, "{queries:?}");
    for query in queries {
        assert!(!query.contains('$'), "a variable that nothing replaces: {query}");
        // A scrape that was late leaves nothing until the next.
        prometheus.until(&query, || {
            let samples = prometheus.query(&query);
            samples.iter().any(|(_, value)| value.is_finite()).then_some(()).ok_or(samples)
        });
    }
}
