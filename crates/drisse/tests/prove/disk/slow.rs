//! A disk that is slow, not broken: every sync, open, rename and unlink of a program takes seconds.

use super::PART;
use super::strace::{self, Faults};
use crate::proof;
use crate::workspace::Workspace;
use drisse_testkit::Request;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What a disk delays. Not `write`, which also sends on sockets and wakes threads.
const CALLS: &str = "fsync,fdatasync,openat,rename,renameat,renameat2,unlink,unlinkat";

/// The same without `openat`: what a program starts opens its libraries.
const CHANGES: &str = "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat";

/// Every call that names a file or waits for one.
const FILE_CALLS: &str = "%file,fsync,fdatasync,ftruncate,fallocate";

/// What a test sends.
struct Sent {
    requests: Vec<Request>,
    took: Vec<Duration>,
    failed: Vec<String>,
}

impl Sent {
    fn new(requests: &[Request]) -> Self {
        Self { requests: requests.to_vec(), took: vec![], failed: vec![] }
    }

    /// Sends every request once, each on a new connection: it has to be accepted, too.
    fn once(&mut self) {
        for request in &self.requests {
            let began = Instant::now();
            match request.send() {
                Ok((200, _)) => {}
                Ok((status, body)) => self.failed.push(format!("{status} {body}")),
                Err(error) => self.failed.push(error),
            }
            self.took.push(began.elapsed());
        }
    }

    fn for_some_time(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            self.once();
        }
    }

    fn p99(&self) -> Duration {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        sorted[sorted.len() * 99 / 100]
    }

    fn longest(&self) -> Duration {
        self.took.iter().max().copied().unwrap_or_default()
    }
}

/// Two services, one of which writes an access log, and what clients and probes ask of them.
fn deployed(workspace: &Workspace) -> Vec<Request> {
    let digits = workspace.json(&["deploy", "examples/digits/digits.onnx", "--access-log"]);
    let iris = workspace.json(&["deploy", "examples/iris/iris.onnx"]);
    let body = |path: &str| std::fs::read_to_string(crate::support::root().join(path)).unwrap();
    let score = |service: &serde_json::Value, body: &str| {
        Request::new(service["scoring_uri"].as_str().unwrap(), service["primary_key"].as_str(), body)
    };
    let gateway =
        format!("http://{}/v2/health/live", workspace.status()["gateway"]["address"].as_str().unwrap());
    vec![
        score(&digits, &body("examples/digits/sample.json")),
        score(&iris, &body("examples/iris/sample.json")),
        Request::get(&gateway),
    ]
}

/// The gateway and every replica.
fn serving(workspace: &Workspace) -> BTreeSet<u64> {
    workspace.processes().into_iter().map(|(pid, _)| u64::from(pid)).collect()
}

#[test]
fn a_slow_disk_of_the_gateway_and_the_replicas_delays_no_request_and_kills_nothing() {
    if !strace::is_there() {
        return;
    }
    let _machine = proof::alone();
    let delays: &[f64] = if proof::whole() { &[0.1, 3.0, 30.0] } else { &[1.0] };
    let workspace = Workspace::new();
    let requests = deployed(&workspace);
    let mut number = 2000;
    for &delay in delays {
        let delay = Duration::from_secs_f64(delay);
        let before = serving(&workspace);
        let pids: Vec<_> = before.iter().copied().collect();
        let slow =
            |delay: Duration| Faults::start(&pids, &format!("{CALLS}:delay_enter={}", delay.as_micros()));
        // Tracing costs time of its own, so it is there in both cases.
        let usual = slow(Duration::from_micros(1));
        let mut without = Sent::new(&requests);
        without.for_some_time(Duration::from_secs(1));
        usual.end();
        let faults = slow(delay);
        let mut with = Sent::new(&requests);
        let waiting = AtomicBool::new(true);
        // Both services change at once: each waits for its own files, and not for the other's.
        let took = std::thread::scope(|scope| {
            let changes: Vec<_> = ["digits", "iris"]
                .into_iter()
                .map(|service| {
                    number += 1;
                    let (workspace, wait) = (&workspace, format!("{number}ms"));
                    scope.spawn(move || {
                        let began = Instant::now();
                        workspace.ok(&["update", service, "--max-wait", &wait, "--timeout", "10m"]);
                        began.elapsed()
                    })
                })
                .collect();
            scope.spawn(|| {
                while waiting.load(SeqCst) {
                    with.once();
                }
            });
            let took: Vec<_> = changes.into_iter().map(|change| change.join().unwrap()).collect();
            waiting.store(false, SeqCst);
            took
        });
        let delayed = faults.end();
        let [one, other] = took[..] else { panic!("two changes") };
        let gateway = workspace.pid("gateway").unwrap();
        let figure = format!(
            "{delayed} calls delayed by {:.1} s: {} requests on new connections, {} failed, p99 {:.1} ms (without the delay \
             {:.1} ms), the longest {:.0} ms; updates took {:.1} and {:.1} s",
            delay.as_secs_f64(),
            with.took.len(),
            with.failed.len(),
            with.p99().as_secs_f64() * 1e3,
            without.p99().as_secs_f64() * 1e3,
            with.longest().as_secs_f64() * 1e3,
            one.as_secs_f64(),
            other.as_secs_f64(),
        );
        let limit = delay.max(Duration::from_secs(2)) / 2;
        let usual = with.longest() < limit && with.p99() < without.p99() + delay / 2;
        let held = delayed > 0 && with.failed.is_empty() && usual && before.contains(&gateway);
        assert!(with.failed.is_empty(), "{:?}", with.failed);
        let claim = "while every sync, open, rename and unlink of the gateway and the replicas is slow, connections are \
                     accepted, requests and probes are answered, two services are updated at once, and nothing is killed";
        proof::holds(
            PART,
            claim,
            figure,
            format!("none fails, none takes {:.1} s, p99 as without", limit.as_secs_f64()),
            held,
        );
    }
}

#[test]
fn a_slow_disk_of_the_control_plane_delays_no_request_and_no_question() {
    if !strace::is_there() {
        return;
    }
    let _machine = proof::alone();
    let delays: &[f64] = if proof::whole() { &[0.1, 3.0, 30.0] } else { &[1.0] };
    let workspace = Workspace::new();
    let requests = deployed(&workspace);
    for (number, &delay) in delays.iter().enumerate() {
        let delay = Duration::from_secs_f64(delay);
        let gateway = workspace.pid("gateway");
        let control = workspace.pid("control").unwrap();
        let faults = Faults::start(&[control], &format!("{CHANGES}:delay_enter={}", delay.as_micros()));
        let (mut sent, mut asked) = (Sent::new(&requests), Duration::ZERO);
        let waiting = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let change = scope.spawn(|| {
                let wait = format!("{}ms", 3000 + number);
                workspace.ok(&["update", "digits", "--max-wait", &wait, "--timeout", "10m"]);
                workspace.ok(&["keys", "digits", "--regenerate", "secondary"]);
            });
            scope.spawn(|| {
                while waiting.load(SeqCst) {
                    sent.once();
                    for question in [&["services"][..], &["services", "show", "digits"], &["logs", "digits"]]
                    {
                        let began = Instant::now();
                        workspace.ok(question);
                        asked = asked.max(began.elapsed());
                    }
                }
            });
            change.join().unwrap();
            waiting.store(false, SeqCst);
        });
        let delayed = faults.end();
        let limit = delay.max(Duration::from_secs(2)) / 2;
        let figure = format!(
            "{delayed} calls delayed by {:.1} s: {} requests, {} failed, the longest took {:.0} ms; the longest question of \
             `services`, `services show` and `logs` took {:.0} ms",
            delay.as_secs_f64(),
            sent.took.len(),
            sent.failed.len(),
            sent.longest().as_secs_f64() * 1e3,
            asked.as_secs_f64() * 1e3,
        );
        let held = delayed > 0 && sent.failed.is_empty() && sent.longest() < limit && asked < limit;
        let held = held && workspace.pid("control") == Some(control) && workspace.pid("gateway") == gateway;
        let claim = "while every sync, rename and unlink of the control plane is slow, requests are answered and so are \
                     questions to the control plane, and nothing is killed";
        proof::holds(
            PART,
            claim,
            figure,
            format!("none fails, none takes {:.1} s, p99 as without", limit.as_secs_f64()),
            held,
        );
    }
}

#[test]
fn threads_that_accept_route_score_or_answer_probes_make_no_file_operation() {
    if !strace::is_there() {
        return;
    }
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    let requests = deployed(&workspace);
    let pids: Vec<_> = serving(&workspace).into_iter().collect();
    // The main thread accepts connections and answers probes; those called `reactor-N` serve connections.
    let mut serving = BTreeSet::new();
    for pid in &pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
            let thread: u64 = task.file_name().to_str().unwrap().parse().unwrap();
            if thread == *pid || name.starts_with("reactor-") {
                serving.insert(thread);
            }
        }
    }
    let trace = Faults::watch(&pids, FILE_CALLS);
    let mut sent = Sent::new(&requests);
    sent.once();
    workspace.ok(&["keys", "digits", "--regenerate", "secondary"]);
    // Of the routes alone: no replica ends, which removes its sockets once it has answered everything.
    workspace.ok(&["update", "digits", "--cors-origin", "https://app.example"]);
    workspace.ok(&["services", "show", "digits"]);
    // Longer than a server waits between two looks at its keys.
    sent.for_some_time(Duration::from_secs(1));
    let calls = trace.threads();
    assert_eq!(sent.failed, [""; 0]);
    let theirs: Vec<_> = calls.iter().filter(|(thread, _)| serving.contains(thread)).collect();
    let figure = format!("{} of {} file operations", theirs.len(), calls.len());
    let held = theirs.is_empty() && calls.len() > 10;
    assert!(held, "{theirs:?}");
    let claim = "threads of the gateway and the replicas that accept, route, score or answer probes make no file operation, \
                 while keys and routes change";
    proof::holds(PART, claim, figure, "0", held);
}
