//! Ten times as many requests as can be served: admitted requests are answered in time, the others are refused at once.

use crate::proof;
use crate::support::Serving;
use crate::surge::{Answered, surge};
use crate::workspace::Workspace;
use drisse_testkit::Request;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PART: &str = "3. Overload and slow clients";

/// The limit for the 99th percentile of the time of a refusal.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Returns the path of magika's model, which recognizes file types by content: a run takes about 8 ms on one core.
#[expect(clippy::print_stderr, reason = "a test that cannot run here says so")]
pub(crate) fn magika() -> Option<PathBuf> {
    let named = std::env::var_os("DRISSE_MAGIKA").map(PathBuf::from);
    if named.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI requires DRISSE_MAGIKA, the path of magika's model");
        eprintln!("overload is not tested: DRISSE_MAGIKA is not set (`cargo xtask test` sets it)");
    }
    named
}

/// The body of a request to magika: 2048 numbers.
fn body() -> String {
    let numbers: Vec<_> = (0..2048).map(|nth| (nth * 7 % 257).to_string()).collect();
    format!("{{\"data\": [[{}]]}}", numbers.join(","))
}

fn with_deadline(request: &Request, deadline: Duration) -> Request {
    let text = String::from_utf8(request.bytes.clone()).unwrap();
    let header = format!("\r\nx-request-timeout-ms: {}\r\n", deadline.as_millis());
    Request { bytes: text.replacen("\r\n", &header, 1).into_bytes(), ..request.clone() }
}

fn quantile(times: &mut [Duration], of: f64) -> Duration {
    times.sort();
    times.get(((times.len() as f64 - 1.0) * of) as usize).copied().unwrap_or_default()
}

/// The median time of a request when there are no others.
fn unloaded(request: &Request) -> Duration {
    let mut times: Vec<_> = (0..60)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(request.send().unwrap().0, 200);
            began.elapsed()
        })
        .collect();
    quantile(&mut times[20..], 0.5)
}

fn try_it(request: &Request, place: &str) {
    let alone = unloaded(request);
    // The capacity, in requests per second: four connections send as fast as they can.
    let second = Duration::from_secs(1);
    let capacity = surge(request, 1e6, 2 * second, 4).iter().filter(|a| a.status == 200).count() as f64 / 2.0;
    // The deadline: twice the unloaded time, plus one run at full load (when every core has one).
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    let deadline = (2 * alone + Duration::from_secs_f64(cores / capacity)).as_secs_f64() * 1e3;
    let deadline = Duration::from_millis(deadline.ceil() as u64);
    let whole = proof::whole();
    let time = if whole { 10 * second } else { 3 * second };
    let answers = surge(&with_deadline(request, deadline), 10.0 * capacity, time, 192);
    let is = |status| move |answer: &&Answered| answer.status == status;
    let taken: Vec<_> = answers.iter().filter(is(200)).collect();
    let late = answers.iter().filter(is(504)).count() + taken.iter().filter(|a| a.took > deadline).count();
    let admitted = taken.len() + answers.iter().filter(is(504)).count();
    let refused: Vec<_> = answers.iter().filter(is(503)).collect();
    let mut waits: Vec<_> = refused.iter().map(|answer| answer.took).collect();
    let all_have_retry_after = refused.iter().all(|answer| answer.retry_after);
    let others = answers.len() - admitted - refused.len();
    let in_time = 1.0 - late as f64 / admitted.max(1) as f64;
    let (p50, p99) = (quantile(&mut waits, 0.5), quantile(&mut waits, 0.99));
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let figure = format!(
        "{:.0}/s offered, capacity {capacity:.0}/s: {} answered, {:.1} % within {:.0} ms; {} refused, p50 {:.2} ms, p99 {:.2} ms; {others} others",
        answers.len() as f64 / time.as_secs_f64(),
        taken.len(),
        in_time * 100.0,
        ms(deadline),
        refused.len(),
        ms(p50),
        ms(p99),
    );
    // The quick part has wider limits: other programs share the machine, and in a debug build refusals are expensive.
    let (least, longest, used) = if whole { (0.99, AT_ONCE, 0.5) } else { (0.6, 30 * AT_ONCE, 0.25) };
    let held = others == 0
        && all_have_retry_after
        && in_time >= least
        && p99 < longest
        && taken.len() as f64 > used * capacity * time.as_secs_f64();
    let limit = format!(
        "{:.0} % in time, refusals in {:.0} ms with Retry-After, more than {:.0} % of the capacity used",
        least * 100.0,
        ms(longest),
        used * 100.0
    );
    let claim = format!(
        "ten times the capacity for magika, {place}: admitted requests are answered in time, the others are refused at once"
    );
    proof::holds(PART, &claim, figure, limit, held);
}

#[test]
fn at_the_scoring_server_under_ten_times_the_load_requests_are_answered_in_time_or_refused_at_once() {
    let Some(model) = magika() else { return };
    let _machine = proof::alone();
    let served = format!("magika={}", model.display());
    let serving = Serving::start(&[&served, "--listen", "127.0.0.1:0"]);
    let request = Request::new(&format!("{}/score", serving.url()), None, &body());
    try_it(&request, "at the scoring server");
}

#[test]
fn through_the_gateway_under_ten_times_the_load_requests_are_answered_in_time_or_refused_at_once() {
    let Some(model) = magika() else { return };
    let _machine = proof::alone();
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", model.to_str().unwrap(), "--name", "magika"]);
    let (uri, key) = (deployed["scoring_uri"].as_str().unwrap(), deployed["primary_key"].as_str());
    try_it(&Request::new(uri, key, &body()), "through the gateway");
}
