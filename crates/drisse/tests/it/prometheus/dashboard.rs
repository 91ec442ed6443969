//! The dashboard's queries, as Grafana would send them.

use super::real::Prometheus;
use crate::support::root;
use serde_json::Value;

/// Prefixes of metrics that only a control plane exports; queries about the gateway and services contain one.
const WORKSPACE: [&str; 3] = ["drisse_gateway_", "drisse_service_", "drisse_up"];

/// Reads the dashboard from the repository.
pub(crate) fn read() -> Value {
    let text = std::fs::read_to_string(root().join("dashboards/drisse.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Returns the queries of all panels with variables replaced, either about a workspace or about a server.
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

/// Checks that Prometheus accepts each query and returns a finite number.
pub(crate) fn has_numbers(prometheus: &Prometheus, of_workspace: bool) {
    let queries = queries(of_workspace);
    assert!(queries.len() >= 8, "{queries:?}");
    for query in queries {
        assert!(!query.contains('$'), "a variable that nothing replaces: {query}");
        // After a late scrape, the query has a number only after the next one.
        prometheus.until(&query, || {
            let samples = prometheus.query(&query);
            samples.iter().any(|(_, value)| value.is_finite()).then_some(()).ok_or(samples)
        });
    }
}
