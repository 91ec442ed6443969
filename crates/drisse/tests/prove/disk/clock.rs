//! The system clock is set back by a day while the control plane runs.

use super::{PART, tools};
use crate::proof;
use crate::workspace::{Workspace, kill};
use drisse_testkit::wait;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The limit for everything the test does after the clock is set back; with a correct clock it takes less.
const SOON: Duration = Duration::from_secs(10);

/// A control plane whose clock the test can set (`faketime`).
struct Clock {
    control: Child,
    file: std::path::PathBuf,
}

impl Clock {
    fn start(workspace: &Workspace) -> Self {
        let file = workspace.folder.path().join("clock");
        std::fs::write(&file, "+0").unwrap();
        let library = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().unwrap();
        let library = String::from_utf8(library.stdout).unwrap();
        std::fs::create_dir_all(&workspace.root).unwrap();
        let root = workspace.root.display().to_string();
        let mut control = workspace.command(&["control", "--workspace", &root]);
        control.env("LD_PRELOAD", library.trim()).env("FAKETIME_TIMESTAMP_FILE", &file);
        control.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        // Adds the target `fake`; its replicas take 10 minutes to start.
        control.env("DRISSE_FAKE", "10m").stdout(Stdio::null()).stderr(Stdio::null());
        let control = control.spawn().unwrap();
        wait("the control plane starts", || workspace.pid("control").is_some());
        Self { control, file }
    }

    fn set(&self, offset: &str) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        kill(self.control.id(), "-TERM");
        let _ = self.control.wait();
    }
}

#[test]
fn a_clock_set_back_a_day_delays_nothing() {
    if !tools::there(&["faketime", "-f", "+0", "true"], "faketime") {
        return;
    }
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    let clock = Clock::start(&workspace);
    workspace.ok(&["deploy", "examples/digits/digits.onnx"]);
    // After three deaths the control plane delays the next restart.
    for _ in 0..3 {
        one_dies(&workspace);
    }
    let begun = workspace.json(&[
        "deploy",
        "examples/wine",
        "--name",
        "late",
        "--target",
        "fake",
        "--no-wait",
        "--timeout",
        "4s",
    ]);
    clock.set("-1d");
    let began = Instant::now();
    one_dies(&workspace);
    workspace.ok(&["update", "digits", "--max-wait", "2s"]);
    workspace.ok(&["keys", "digits", "--regenerate", "primary"]);
    workspace.ok(&["models", "register", "examples/iris"]);
    wait("the operation's time is over", || {
        workspace.json(&["operations"])["items"].as_array().unwrap().iter().all(|o| o["state"] != "Running")
    });
    let ended = workspace.json(&["operations", "show", &begun["operation"].to_string()]);
    assert_eq!(ended["state"], "TimedOut", "{ended}");
    workspace.ok(&["score", "digits"]);
    let took = began.elapsed();
    let claim =
        "with the clock set back by a day, dead replicas are replaced, changes succeed and time limits hold";
    let figure = format!("all within {:.1} s", took.as_secs_f64());
    proof::holds(PART, claim, figure, format!("{} s", SOON.as_secs()), took < SOON);
}

/// Kills the service's replica and waits until another one serves.
fn one_dies(workspace: &Workspace) {
    let before = workspace.replicas("digits");
    kill(before[0], "-9");
    wait("the killed replica is replaced", || {
        workspace.replicas("digits").iter().any(|pid| !before.contains(pid))
            && workspace.run(&["score", "digits"]).code == 0
    });
}
