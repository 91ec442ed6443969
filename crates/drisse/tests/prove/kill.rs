//! Kills and stops every process at every crash point of every change: nothing acknowledged is lost, nothing incomplete
//! is left, and the desired state is reached soon.

use crate::scenario::{Passed, Scenario, all};
use crate::workspace::kill;
use crate::{engine, proof};
use drisse_testkit::{PATIENCE, pause_until};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const PART: &str = "1. Kill matrix";

/// The limit for the time from the first command after the kill until the desired state is reached.
const SOON: Duration = Duration::from_secs(2);

/// The same for containers, where an image may have to be loaded into the engine again.
const SOON_CONTAINED: Duration = Duration::from_secs(30);

/// Crash points that only occur with containers.
const OF_CONTAINERS: [&str; 3] = ["an image is brought in", "a container is made", "a container is started"];

/// How long a process is stopped.
const STOPPED: Duration = Duration::from_secs(30);

/// A crash point in a polling loop is passed again and again; only its first passes are tested, the others are alike.
const TIMES: usize = 4;

/// One run: the process is killed or stopped the `nth` time it passes the crash point.
#[derive(Clone, Debug)]
struct Point {
    scenario: &'static Scenario,
    passed: Passed,
    nth: usize,
}

/// Every crash point that the scenarios pass, in order of its first pass. The quick part has only the first pass of
/// each crash point, in the first scenario that passes it.
fn points(whole: bool) -> Vec<Point> {
    let mut seen = BTreeSet::new();
    let mut points = Vec::new();
    for scenario in all() {
        let mut times = BTreeMap::<_, usize>::new();
        for passed in scenario.trace() {
            let nth = times.entry(passed.clone()).and_modify(|times| *times += 1).or_insert(1);
            let first = seen.insert(passed.clone());
            if first || (whole && *nth <= TIMES) {
                points.push(Point { scenario, passed, nth: *nth });
            }
        }
    }
    points
}

/// The names of all crash points in the sources.
fn names_in_sources() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![crate::support::root().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(path).unwrap();
                let calls = text.split("crash_point(\"").skip(1).filter_map(|rest| rest.split('"').next());
                names.extend(calls.map(str::to_owned));
            }
        }
    }
    names
}

/// The results of all runs.
#[derive(Default)]
struct Outcome {
    runs: AtomicUsize,
    /// Crash points at which a process was killed or stopped. Runs differ: one may pass a crash point less often.
    hit: Mutex<BTreeSet<Passed>>,
    slowest: Mutex<Duration>,
    broken: Mutex<Vec<String>>,
}

/// Runs every point, `at_once` of them in parallel.
fn try_all(
    points: &[Point],
    at_once: usize,
    run: impl Fn(&Point) -> Result<Option<Duration>, String> + Sync,
) -> Outcome {
    let outcome = Outcome::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(point) = points.get(next.fetch_add(1, SeqCst)) {
                    let name = format!(
                        "{}: {} at `{}` #{}",
                        point.scenario.name, point.passed.role, point.passed.step, point.nth
                    );
                    match run(point) {
                        Ok(Some(took)) => {
                            outcome.runs.fetch_add(1, SeqCst);
                            outcome.hit.lock().unwrap().insert(point.passed.clone());
                            let soon = if point.scenario.contained { SOON_CONTAINED } else { SOON };
                            if !point.scenario.contained {
                                let mut slowest = outcome.slowest.lock().unwrap();
                                *slowest = took.max(*slowest);
                            }
                            if took > soon {
                                outcome.broken.lock().unwrap().push(format!("{name}: took {took:.1?}"));
                            }
                        }
                        Ok(None) => {}
                        Err(why) => outcome.broken.lock().unwrap().push(format!("{name}: {why}")),
                    }
                }
            });
        }
    });
    outcome
}

fn report(claim: &str, points: &[Point], outcome: &Outcome) {
    let (runs, hit) = (outcome.runs.load(SeqCst), outcome.hit.lock().unwrap());
    let (broken, slowest) = (outcome.broken.lock().unwrap(), *outcome.slowest.lock().unwrap());
    assert!(broken.is_empty(), "{} of {runs} runs:\n{}", broken.len(), broken.join("\n"));
    let missed: BTreeSet<_> =
        points.iter().map(|point| &point.passed).filter(|step| !hit.contains(step)).collect();
    assert!(missed.is_empty(), "no process was killed or stopped at {missed:?}");
    let crash_points = hit.len();
    let slowest_s = slowest.as_secs_f64();
    let figure = format!("{runs} runs at {crash_points} crash points, 0 broken; slowest {slowest_s:.2} s");
    proof::holds(PART, claim, figure, "0 broken, 2 s", slowest <= SOON);
}

#[test]
fn after_a_kill_at_any_crash_point_nothing_is_lost_and_nothing_is_left() {
    let _machine = proof::among_others();
    let points = points(proof::whole());
    let passed: BTreeSet<_> = points.iter().map(|point| point.passed.step.clone()).collect();
    // Without a container engine, the crash points of containers cannot be passed.
    let missing: Vec<_> = names_in_sources().difference(&passed).cloned().collect();
    let missing: Vec<_> = missing
        .into_iter()
        .filter(|step| engine::podman().is_some() || !OF_CONTAINERS.contains(&&**step))
        .collect();
    assert!(missing.is_empty(), "no scenario passes these crash points: {missing:?}");
    let outcome = try_all(&points, 3, |point| {
        let mut run = point.scenario.prepare();
        run.arm(&point.passed, "kill", point.nth);
        run.change();
        let took = run.settled()?;
        Ok(run.happened("kill").then_some(took))
    });
    report(
        "after any process is killed (SIGKILL) at any crash point of any change, everything acknowledged is there and \
         nothing is left over",
        &points,
        &outcome,
    );
}

#[test]
fn after_a_stop_at_any_crash_point_everything_goes_on() {
    let _machine = proof::among_others();
    let whole = proof::whole();
    let mut points = points(false);
    // Each stop lasts half a minute, so the quick part stops each kind of process only once.
    if !whole {
        let mut roles = BTreeSet::new();
        points.retain(|point| roles.insert(point.passed.role.clone()));
    }
    let outcome = try_all(&points, 16, |point| {
        let mut run = point.scenario.prepare();
        run.arm(&point.passed, "stop", point.nth);
        let changing = run.begin_change();
        let mut until = Instant::now() + PATIENCE;
        let stopped = loop {
            if let Some(stopped) = run.victim("stop") {
                break Some(stopped);
            }
            if Instant::now() > until {
                break None;
            }
            // A removed replica may end only after the command that removed it.
            if run.has_changed(&changing) {
                until = until.min(Instant::now() + SOON);
            }
            pause_until(Instant::now() + Duration::from_millis(5));
        };
        let Some(stopped) = stopped else {
            run.end_change(changing);
            return Ok(None);
        };
        let hold = if whole { STOPPED } else { Duration::from_secs(3) };
        pause_until(Instant::now() + hold);
        kill(stopped, "-CONT");
        run.end_change(changing);
        run.settled().map(Some)
    });
    let claim = "after any process is stopped (SIGSTOP) for 30 s at any crash point, everything continues";
    report(claim, &points, &outcome);
}
