//! A long day in minutes: load, and all the while updates, new keys, models, scaling, and kills.

use crate::proof;
use crate::workspace::{Workspace, kill};
use drisse_testkit::{Failure, Load, Request, wait};
use std::path::Path;
use std::time::{Duration, Instant};

const PART: &str = "4. Soak";

/// What a kill breaks is broken by then.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Who was killed, and when.
struct Killed {
    gateway: bool,
    at: Instant,
}

/// What a process takes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    kib: f64,
    files: usize,
    threads: usize,
}

fn request(deployed: &serde_json::Value, body: &str) -> Request {
    let body = std::fs::read_to_string(crate::support::root().join(body)).unwrap();
    Request::new(deployed["scoring_uri"].as_str().unwrap(), deployed["primary_key"].as_str(), &body)
}

/// Whether a retry would have been safe, because no process had begun the request. Requests that the gateway or a
/// replica had when it was killed may not be sent again.
fn could_have_been_saved(failure: &Failure, killed: &[Killed]) -> bool {
    let lost = |kill: &&Killed| match kill.gateway {
        true => failure.what.starts_with("broken") || failure.what.starts_with("closed"),
        false => failure.what.starts_with("502"),
    };
    !killed.iter().filter(lost).any(|kill| failure.at >= kill.at && failure.at < kill.at + AFTERMATH)
}

/// The changes of one round, in which nothing is killed.
fn change(workspace: &Workspace, nth: usize, other: &Path) {
    let wait = format!("{}ms", 10_000 + nth);
    let other = other.to_str().unwrap();
    workspace.ok(&["update", "digits", "--max-wait", &wait]);
    workspace.ok(&["keys", "digits", "--regenerate", "secondary"]);
    workspace.ok(&["update", "digits", "--replicas", if nth.is_multiple_of(2) { "3" } else { "2" }]);
    workspace.ok(&["update", "digits", other]);
    workspace.ok(&["rollback", "digits"]);
    let (name, registered) = (format!("m{nth}"), format!("m{nth}:1"));
    workspace.ok(&["models", "register", other, "--name", &name]);
    workspace.ok(&["models", "delete", &registered]);
    workspace.ok(&["deploy", other, "--name", "passing"]);
    workspace.ok(&["delete", "passing"]);
}

/// Kills one after the other, each once everything is well again.
fn kill_all(workspace: &Workspace, score: &Request, killed: &mut Vec<Killed>) {
    let well = || {
        wait("both replicas are up and it serves", || {
            workspace.replicas("digits").len() == 2 && score.send().is_ok_and(|answer| answer.0 == 200)
        });
    };
    workspace.ok(&["update", "digits", "--replicas", "2"]);
    well();
    killed.push(Killed { gateway: false, at: Instant::now() });
    kill(workspace.replicas("digits")[0], "-9");
    well();
    kill(u32::try_from(workspace.pid("control").unwrap()).unwrap(), "-9");
    workspace.ok(&["services"]);
    let gateway = workspace.pid("gateway").unwrap();
    killed.push(Killed { gateway: true, at: Instant::now() });
    kill(u32::try_from(gateway).unwrap(), "-9");
    wait("the gateway is replaced", || workspace.pid("gateway").is_some_and(|pid| pid != gateway));
    well();
}

fn sample(pid: u32) -> Sample {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    Sample { at: Instant::now(), kib: number("VmRSS"), files, threads: number("Threads") as usize }
}

/// KiB a minute: the median of the slopes between all pairs (Theil and Sen), which a backup that was being
/// written at one sample does not move.
fn slope(samples: &[Sample]) -> f64 {
    let mut slopes: Vec<_> = samples
        .iter()
        .enumerate()
        .flat_map(|(nth, one)| samples[nth + 1..].iter().map(move |other| (one, other)))
        .map(|(one, other)| (other.kib - one.kib) / ((other.at - one.at).as_secs_f64() / 60.0))
        .collect();
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or_default()
}

#[test]
fn under_load_changes_and_kills_no_request_fails_that_could_be_saved_and_nothing_grows() {
    let _machine = proof::alone();
    let whole = proof::whole();
    let half = Duration::from_secs(if whole { 300 } else { 8 });
    let workspace = Workspace::new();
    let other = workspace.variant("other");
    let deployed =
        workspace.json(&["deploy", "examples/digits/digits.onnx", "--replicas", "2", "--max-wait", "10s"]);
    let steady =
        workspace.json(&["deploy", "examples/iris/iris.onnx", "--name", "steady", "--max-wait", "10s"]);
    let score = request(&deployed, "examples/digits/sample.json");
    let loads = [Load::start(3, &score), Load::start(2, &request(&steady, "examples/iris/sample.json"))];
    let began = Instant::now();
    let (mut killed, mut rounds) = (Vec::new(), 0);
    while began.elapsed() < half {
        kill_all(&workspace, &score, &mut killed);
        change(&workspace, rounds, &other);
        rounds += 1;
    }
    // No process is killed from here on: memory that grows now grows forever.
    let pid = |what: &str| u32::try_from(workspace.pid(what).unwrap()).unwrap();
    let processes = [
        ("control plane", pid("control")),
        ("gateway", pid("gateway")),
        ("replica", workspace.replicas("steady")[0]),
    ];
    let mut samples: Vec<Vec<Sample>> = vec![vec![]; processes.len()];
    let calm = Instant::now();
    while calm.elapsed() < half {
        change(&workspace, rounds, &other);
        rounds += 1;
        // Between changes, so that each finds the same.
        for ((_, pid), samples) in processes.iter().zip(&mut samples) {
            samples.push(sample(*pid));
        }
    }
    let mut answered = 0;
    let mut failures = Vec::new();
    for load in loads {
        let seen = load.end();
        answered += seen.answered;
        failures.extend(seen.failures);
    }
    let saveable: Vec<_> =
        failures.iter().filter(|failure| could_have_been_saved(failure, &killed)).collect();
    let figure = format!(
        "{:.0} s, {answered} answered, {rounds} rounds of changes, {} kills: {} lost with whom had them, {} that could have been saved",
        began.elapsed().as_secs_f64(),
        killed.len() * 3 / 2,
        failures.len() - saveable.len(),
        saveable.len(),
    );
    assert!(saveable.is_empty(), "{saveable:?}");
    proof::holds(
        PART,
        "load, updates, new keys, scaling, models and kills: no request fails that a safe retry could have saved",
        figure,
        "0",
        true,
    );
    for ((name, _), samples) in processes.iter().zip(&samples) {
        // The first half fills caches.
        let settled = &samples[samples.len() / 2..];
        let spread = |of: fn(&Sample) -> usize| {
            let (least, most) =
                (settled.iter().map(of).min().unwrap(), settled.iter().map(of).max().unwrap());
            (most - least, most)
        };
        let ((file_spread, files), (thread_spread, threads)) = (spread(|s| s.files), spread(|s| s.threads));
        let (slope, kib) = (slope(settled), settled[0].kib);
        let figure = format!(
            "{slope:+.0} KiB/min of {:.0} MiB; {files} files ±{file_spread}, {threads} threads ±{thread_spread}",
            kib / 1024.0
        );
        // Seconds fit no line: only the whole run says something of growth.
        let flat = !whole || slope < kib * 0.005;
        let held = flat && file_spread <= 8 && thread_spread <= 4;
        proof::holds(
            PART,
            &format!("the {name} does not grow"),
            figure,
            "0.5 %/min, ±8 files, ±4 threads",
            held,
        );
    }
}
