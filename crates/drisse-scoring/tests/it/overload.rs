//! Requests that are too many, too late or canceled: refused at once, ended, dropped.

use crate::support::{Setup, start};
use drisse_core::{MaxWait, ScorerLimits};
use drisse_engines::fake::Script;
use drisse_scoring::Config;
use drisse_testkit::{post, wait};
use std::time::{Duration, Instant};

const BODY: &str = "{\"data\":[[1,2]]}";
const WAITING: &str = "drisse_waiting_requests{model=\"slow\"} ";
/// The number of requests whose run has begun.
const BEGUN: &str = "drisse_queue_duration_seconds_count{model=\"slow\"} ";

fn slow(latency: Duration, config: Config) -> Setup {
    let limits = ScorerLimits { concurrency: 1, steady: false, rows_independent: Ok(()) };
    Setup {
        config,
        models: vec![("slow", Script { latency, limits, ..Script::default() })],
        ..Setup::default()
    }
}

#[test]
fn what_would_wait_too_long_is_refused_at_once_with_retry_after() {
    let config = Config { max_wait: MaxWait::Fixed(Duration::from_millis(2500)), ..Config::default() };
    let server = slow(Duration::from_secs(1), config).start();
    assert_eq!(server.post("/score", BODY).status, 200, "the first shows how long a run takes");
    let mut clients = [server.connect(), server.connect(), server.connect()];
    for (nth, client) in clients.iter_mut().enumerate() {
        client.push(post("/score", "", BODY));
        server.wait_for(WAITING, (nth + 1) as f64);
    }
    let began = Instant::now();
    let refused = server.post("/score", BODY);
    assert!(began.elapsed() < Duration::from_millis(500), "at once: {:?}", began.elapsed());
    assert_eq!(refused.status, 503, "{}", refused.body);
    // Two runs, and what is left of the one under way; a busy machine makes them longer.
    let seconds = ["3", "4"].map(|seconds| format!("retry-after: {seconds}\r\n"));
    assert!(seconds.iter().any(|header| refused.headers.contains(header)), "{}", refused.headers);
    // The first of the three may not have begun yet.
    let waiting = ["2", "3"].map(|waiting| format!("model `slow` is overloaded: {waiting} requests wait"));
    assert!(waiting.iter().any(|message| refused.body.contains(message)), "{}", refused.body);
    assert_eq!(server.metric("drisse_rejected_requests_total{model=\"slow\"} "), 1.0);
    let [running, waiting, _] = &mut clients;
    assert_eq!(
        (running.read().unwrap().status, waiting.read().unwrap().status),
        (200, 200),
        "what was admitted is answered"
    );
}

#[test]
fn what_waits_longer_than_was_estimated_is_refused_when_its_patience_ends() {
    let config = Config { max_wait: MaxWait::Fixed(Duration::from_millis(50)), ..Config::default() };
    let server = slow(Duration::from_secs(3600), config).start();
    let mut running = server.connect();
    running.push(post("/score", "", BODY));
    server.wait_for(WAITING, 1.0);
    // Nothing has run yet, so nothing is known of how long a run takes.
    let refused = server.post("/score", BODY);
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.headers.contains("retry-after: 1\r\n"), "{}", refused.headers);
}

#[test]
fn a_few_clients_more_than_runs_wait_for_a_slow_model_also_before_its_first_run() {
    let server = slow(Duration::from_millis(300), Config::default()).start();
    let client = || {
        let mut client = server.connect();
        (0..2).map(|_| client.post("/score", BODY).status).collect::<Vec<_>>()
    };
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 8]);
}

#[test]
fn a_full_queue_refuses_whatever_the_estimate() {
    let server = slow(Duration::from_secs(60), Config { max_queue: 1, ..Config::default() }).start();
    let mut clients = [server.connect(), server.connect()];
    for (nth, client) in clients.iter_mut().enumerate() {
        client.push(post("/score", "", BODY));
        server.wait_for(WAITING, (nth + 1) as f64);
        // The first has left the queue.
        server.wait_for(BEGUN, 1.0);
    }
    assert_eq!(server.post("/score", BODY).status, 503);
}

#[test]
fn what_has_its_turn_at_once_is_tried_until_its_deadline_however_long_runs_took() {
    let server = slow(Duration::from_millis(600), Config::default()).start();
    assert_eq!(server.post("/score", BODY).status, 200, "it shows how long a run takes");
    // The response is sent a moment before the run's turn is free; until then a request may be refused.
    wait("the request is tried until its deadline", || {
        let began = Instant::now();
        let late = server.connect().post_with("/score", "x-request-timeout-ms: 100\r\n", BODY);
        late.status == 504 && began.elapsed() >= Duration::from_millis(100)
    });
    assert_eq!(server.metric(BEGUN), 2.0);
}

#[test]
fn past_its_deadline_a_request_is_a_504_and_its_run_ends() {
    let server = slow(Duration::from_secs(3600), Config::default()).start();
    let started = Instant::now();
    let late = server.connect().post_with("/score", "x-request-timeout-ms: 50\r\n", BODY);
    assert_eq!(late.status, 504, "{}", late.body);
    assert!(started.elapsed() < Duration::from_secs(20));
    // The one turn is free again: the next run starts and is late itself, instead of waiting for ever.
    server.wait_for(BEGUN, 1.0);
    let late = server.connect().post_with("/score", "x-request-timeout-ms: 50\r\n", BODY);
    assert_eq!(late.status, 504);
    server.wait_for(BEGUN, 2.0);
}

#[test]
fn the_servers_own_timeout_bounds_every_request() {
    let config = Config { scoring_timeout: Duration::from_millis(50), ..Config::default() };
    let server = slow(Duration::from_secs(3600), config).start();
    assert_eq!(server.connect().post_with("/score", "x-request-timeout-ms: 99999999\r\n", BODY).status, 504);
}

#[test]
fn work_whose_client_left_is_dropped_queued_or_running() {
    let server = slow(Duration::from_secs(3600), Config::default()).start();
    let mut clients = [server.connect(), server.connect()];
    for (nth, client) in clients.iter_mut().enumerate() {
        client.push(post("/score", "", BODY));
        server.wait_for(WAITING, (nth + 1) as f64);
        server.wait_for(BEGUN, 1.0);
    }
    let [running, queued] = clients;
    drop(queued);
    server.wait_for(WAITING, 1.0);
    drop(running);
    server.wait_for(WAITING, 0.0);
    // One run was started and ended; the queued one never ran.
    assert_eq!(server.metric(BEGUN), 1.0);
    let late = server.connect().post_with("/score", "x-request-timeout-ms: 50\r\n", BODY);
    assert_eq!(late.status, 504, "its turn came");
    server.wait_for(BEGUN, 2.0);
}

#[test]
fn a_panic_in_an_engine_is_one_500_and_no_more() {
    let script = Script { panic_every: Some(2), ..Script::default() };
    let server = Setup { models: vec![("echo", script)], ..Setup::default() }.start();
    let mut client = server.connect();
    let statuses: Vec<_> = (0..4).map(|_| client.post("/score", BODY).status).collect();
    assert_eq!(statuses, [200, 500, 200, 500]);
}

#[test]
fn an_engines_refusal_is_the_clients_400() {
    let script = Script { fail_every: Some(1), ..Script::default() };
    let server = Setup { models: vec![("echo", script)], ..Setup::default() }.start();
    let answer = server.post("/score", BODY);
    assert_eq!((answer.status, answer.body.contains("run 1 fails, as scripted")), (400, true));
}

#[test]
fn a_tiny_model_leaves_the_queue_after_it_has_shown_its_time() {
    let server = start();
    let mut client = server.connect();
    for _ in 0..100 {
        assert_eq!(client.post("/score", BODY).status, 200);
    }
    assert!(server.metric("drisse_queue_duration_seconds_count{model=\"echo\"} ") < 100.0);
    assert_eq!(server.metric("drisse_compute_duration_seconds_count{model=\"echo\"} "), 100.0);
}
