//! The two text formats of metrics: OpenMetrics, and Prometheus' older one for clients that do not ask for it.
//!
//! Sources: <https://prometheus.io/docs/specs/om/open_metrics_spec/>,
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

/// The media type of OpenMetrics.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The media type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns metrics in the format that a request accepts, and its media type: OpenMetrics if the request names it, and
/// Prometheus' format otherwise. `openmetrics` is the text without exemplars.
pub fn accepted(headers: &HeaderMap, openmetrics: String) -> (&'static str, String) {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    match accepts.into_iter().any(|accept| accept.contains("application/openmetrics-text")) {
        true => (OPENMETRICS, openmetrics),
        false => (PROMETHEUS, prometheus(&openmetrics)),
    }
}

/// Converts OpenMetrics to Prometheus' text format. There the name of a counter ends with `_total` also in its comments,
/// and there are no types for information and unknown metrics.
fn prometheus(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    // The help precedes the type, which says what the name is.
    let mut help = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), text) => help = Some((name, text.unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (end, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                    out.extend(["# HELP ", name, end, " ", text, "\n"]);
                }
                out.extend(["# TYPE ", name, end, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => out.extend([line, "\n"]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const METRICS: &str = "# HELP a_b Counts.\n# TYPE a_b counter\n# UNIT a_b bytes\na_b_total{x=\"# TYPE\"} 1\n\
                           # TYPE i info\ni_info{v=\"1\"} 1\n# HELP u What.\n# TYPE u unknown\nu 2\n# EOF\n";

    #[test]
    fn clients_that_do_not_name_openmetrics_get_the_format_that_every_prometheus_reads() {
        let (kind, text) = accepted(&HeaderMap::new(), METRICS.to_owned());
        assert_eq!(kind, PROMETHEUS);
        assert_eq!(
            text,
            "# HELP a_b_total Counts.\n# TYPE a_b_total counter\na_b_total{x=\"# TYPE\"} 1\n# TYPE i_info gauge\n\
             i_info{v=\"1\"} 1\n# HELP u What.\n# TYPE u untyped\nu 2\n"
        );
        let named = "text/plain;q=0.5,application/openmetrics-text;version=1.0.0;q=0.6";
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(named))]);
        assert_eq!(accepted(&headers, METRICS.to_owned()), (OPENMETRICS, METRICS.to_owned()));
    }
}
