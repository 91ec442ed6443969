//! The metrics under Triton's names, for dashboards that use them.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/user_guide/metrics.md>

use crate::models::Model;
use crate::schedule::Runner;
use std::fmt::Write;
use std::sync::Arc;

/// A series' name, its help, and the value of a model.
type Series = (&'static str, &'static str, fn(&Runner) -> u64);

const SERIES: [Series; 9] = [
    ("request_success", "Number of successful inference requests", |m| m.metrics.statistics().success.count),
    ("count", "Number of inferences performed", |m| m.metrics.statistics().success.count),
    ("exec_count", "Number of model executions performed", |m| m.metrics.statistics().runs),
    ("pending_request_count", "Requests that wait or run", |m| m.metrics.pending()),
    ("request_duration_us", "Cumulative inference request duration in microseconds", |m| {
        m.metrics.statistics().success.ns / 1000
    }),
    ("queue_duration_us", "Cumulative inference queuing duration in microseconds", |m| {
        m.metrics.statistics().queue.ns / 1000
    }),
    // Inputs are decoded into tensors before a request is queued.
    ("compute_input_duration_us", "Cumulative compute input duration in microseconds", |_| 0),
    ("compute_infer_duration_us", "Cumulative compute inference duration in microseconds", |m| {
        m.metrics.statistics().compute.ns / 1000
    }),
    ("compute_output_duration_us", "Cumulative compute output duration in microseconds", |m| {
        m.metrics.statistics().encode.ns / 1000
    }),
];

/// Appends Triton's series to `text`, metrics in OpenMetrics' form. Their type is `unknown`, because OpenMetrics requires
/// other names of counters.
pub(super) fn append(text: &str, models: &[Arc<Model>]) -> String {
    let mut out = text.trim_end_matches("# EOF\n").to_owned();
    let labels = |model: &Model| format!("model=\"{}\",version=\"{}\"", model.name(), model.version);
    // Writing to a string cannot fail.
    for (name, help, value) in SERIES {
        let _ = writeln!(out, "# HELP nv_inference_{name} {help}.\n# TYPE nv_inference_{name} unknown");
        for model in models {
            let _ = writeln!(out, "nv_inference_{name}{{{}}} {}", labels(model), value(&model.runner));
        }
    }
    let name = "nv_inference_request_failure";
    let _ = writeln!(out, "# HELP {name} Number of failed inference requests.\n# TYPE {name} unknown");
    for model in models {
        let all = model.runner.metrics.statistics().fail.count;
        let rejected = model.runner.metrics.rejected.get().min(all);
        for (reason, count) in [("REJECTED", rejected), ("OTHER", all - rejected)] {
            let _ = writeln!(out, "{name}{{{},reason=\"{reason}\"}} {count}", labels(model));
        }
    }
    out + "# EOF\n"
}
