//! Requests that share runs: faster, with the same outputs.

use crate::support::{Running, Setup};
use drisse_core::ScorerLimits;
use drisse_engines::fake::Script;
use drisse_scoring::Config;
use drisse_testkit::{Connection, post};
use std::time::Duration;

/// The number of requests whose run has begun.
const BEGUN: &str = "drisse_queue_duration_seconds_count{model=\"device\"} ";
const RUNS: &str = "drisse_batch_requests_count{model=\"device\"} ";
const REQUESTS: &str = "drisse_batch_requests_sum{model=\"device\"} ";

/// A model on something like a GPU: one run at a time, which takes what it takes.
fn device(script: Script, config: Config) -> Running {
    let limits = ScorerLimits { concurrency: 1, steady: true, rows_independent: Ok(()) };
    let latency = Duration::from_millis(20);
    let script = Script { latency, limits, ..script };
    let sample = Some("{\"data\":[[1,2],[3,4]]}");
    Setup { config, models: vec![("device", script)], sample, ..Setup::default() }.start()
}

/// Sends one request per body while the device is busy with another, and gives the answers to these.
fn meanwhile(server: &Running, bodies: &[String]) -> Vec<(u16, String)> {
    let mut first = server.connect();
    first.push(post("/score", "", "{\"data\":[[0,0]]}"));
    server.wait_for(BEGUN, 1.0);
    let mut clients: Vec<Connection> = bodies.iter().map(|_| server.connect()).collect();
    for (client, body) in clients.iter_mut().zip(bodies) {
        client.push(post("/score", "", body));
    }
    assert_eq!(first.read().unwrap().status, 200);
    clients
        .iter_mut()
        .map(|client| client.read().unwrap())
        .map(|answer| (answer.status, answer.body))
        .collect()
}

fn body(number: usize, rows: usize) -> String {
    let row = format!("[{number},{rows}]");
    format!("{{\"data\":[{}]}}", vec![row; rows].join(","))
}

fn echoed(number: usize, rows: usize) -> String {
    let row = format!("[{number}.0,{rows}.0]");
    format!("{{\"X\":[{}]}}", vec![row; rows].join(","))
}

#[test]
fn what_waits_while_the_engine_is_busy_shares_runs_and_each_gets_its_own_rows() {
    let server = device(Script::default(), Config::default());
    let sizes: Vec<usize> = (0..24).map(|nth| 1 + nth % 3).collect();
    let bodies: Vec<_> = sizes.iter().enumerate().map(|(nth, &rows)| body(nth, rows)).collect();
    for (nth, (status, answer)) in meanwhile(&server, &bodies).into_iter().enumerate() {
        assert_eq!((status, answer), (200, echoed(nth, sizes[nth])));
    }
    let (runs, requests) = (server.metric(RUNS), server.metric(REQUESTS));
    assert_eq!(requests, 25.0);
    assert!(runs <= 15.0, "{requests} requests in {runs} runs");
}

#[test]
fn a_request_alone_waits_for_no_other() {
    let server = device(Script::default(), Config::default());
    for nth in 0..5 {
        assert_eq!(server.post("/score", &body(nth, 1)).body, echoed(nth, 1));
    }
    assert_eq!(server.metric(RUNS), 5.0);
}

#[test]
fn what_one_request_is_refused_for_is_not_the_others_fault() {
    let server = device(Script { refused: Some(7.0), ..Script::default() }, Config::default());
    let bodies: Vec<_> = (4..12).map(|nth| body(nth, 1)).collect();
    for (nth, (status, answer)) in (4..12).zip(meanwhile(&server, &bodies)) {
        if nth == 7 {
            assert_eq!((status, answer.contains("7 is refused")), (400, true), "{answer}");
        } else {
            assert_eq!((status, answer), (200, echoed(nth, 1)));
        }
    }
}

#[test]
fn requests_of_other_shapes_or_outputs_run_by_themselves() {
    let server = device(Script::default(), Config::default());
    let strings = |nth: usize| format!("{{\"data\":{{\"X\":[[{nth},1]],\"s\":[\"a\"]}}}}");
    let bodies: Vec<_> = (0..8).map(|nth| if nth % 2 == 0 { body(nth, 1) } else { strings(nth) }).collect();
    for (nth, (status, answer)) in meanwhile(&server, &bodies).into_iter().enumerate() {
        assert_eq!((status, answer), (200, echoed(nth, 1)));
    }
    assert!(server.metric(RUNS) >= 3.0);
}

#[test]
fn a_model_whose_rows_reach_each_other_runs_each_request_by_itself() {
    let server = device(Script { mixes: true, ..Script::default() }, Config::default());
    let bodies: Vec<_> = (0..6).map(|nth| body(nth, 1)).collect();
    for (nth, (status, answer)) in meanwhile(&server, &bodies).into_iter().enumerate() {
        assert_eq!((status, answer), (200, format!("{{\"X\":[[{}.0,2.0]]}}", nth + 1)));
    }
    assert_eq!((server.metric(RUNS), server.metric(REQUESTS)), (7.0, 7.0));
}

#[test]
fn it_is_switched_off_by_the_operator_and_by_a_model_that_gains_nothing() {
    // Long rows: that a busy machine wakes a sleeper late, once for each run, is next to nothing of them.
    let gains_nothing =
        Script { latency: Duration::ZERO, row: Duration::from_millis(20), ..Script::default() };
    let limits = ScorerLimits { concurrency: 1, steady: true, rows_independent: Ok(()) };
    let sample = Some("{\"data\":[[1,2]]}");
    let models = vec![("device", Script { limits, ..gains_nothing })];
    let alone = Setup { models, sample, ..Setup::default() }.start();
    let off = device(Script::default(), Config { max_batch: 1, ..Config::default() });
    for server in [alone, off] {
        let bodies: Vec<_> = (0..6).map(|nth| body(nth, 1)).collect();
        assert!(meanwhile(&server, &bodies).iter().all(|(status, _)| *status == 200));
        assert_eq!((server.metric(RUNS), server.metric(REQUESTS)), (7.0, 7.0));
    }
}
