//! What Prometheus reads of a server.

use crate::support::{Setup, start};
use drisse_engines::fake::Script;
use drisse_scoring::Config;

const BODY: &str = "{\"data\":[[1,2]]}";

#[test]
fn the_parts_of_a_requests_time_are_told_apart() {
    let server = start();
    for _ in 0..3 {
        assert_eq!(server.post("/score", BODY).status, 200);
    }
    let part = |part: &str, what: &str| {
        server.metric(&format!("drisse_{part}_duration_seconds_{what}{{model=\"echo\"}} "))
    };
    for name in ["request", "compute", "encode"] {
        assert_eq!(part(name, "count"), 3.0, "{name}");
        assert!(part(name, "sum") > 0.0, "{name}");
    }
    assert!(part("compute", "sum") + part("encode", "sum") <= part("request", "sum"));
}

#[test]
fn tritons_names_say_the_same_where_they_are_asked_for() {
    let script = Script { fail_every: Some(4), ..Script::default() };
    let config = Config { triton_metrics: true, ..Config::default() };
    let server = Setup { config, models: vec![("echo", script)], ..Setup::default() }.start();
    let statuses: Vec<_> = (0..4).map(|_| server.post("/score", BODY).status).collect();
    assert_eq!(statuses, [200, 200, 200, 400]);
    let triton = |name: &str, more: &str| {
        server.metric(&format!("nv_inference_{name}{{model=\"echo\",version=\"1\"{more}}} "))
    };
    assert_eq!((triton("request_success", ""), triton("exec_count", "")), (3.0, 4.0));
    assert_eq!(triton("request_failure", ",reason=\"OTHER\""), 1.0);
    assert!(triton("request_duration_us", "") >= triton("compute_infer_duration_us", ""));
    let text = server.admin("GET", "/metrics", "").body;
    assert!(text.ends_with("# EOF\n") && text.matches("# EOF").count() == 1);
    assert!(!start().admin("GET", "/metrics", "").body.contains("nv_"), "not unless asked for");
}
