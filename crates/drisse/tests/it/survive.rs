//! Processes are killed, and no acknowledged change is lost.

use crate::deploy::request;
use crate::workspace::{Disk, Workspace, kill, own_address, ran};
use drisse_testkit::{Load, wait};
use std::process::Command;
use std::time::Duration;

const DIGITS: &str = "examples/digits/digits.onnx";

/// Maximum time until everything works again.
const SOON: Duration = Duration::from_secs(2);

#[test]
fn a_killed_control_plane_fails_no_request_and_the_next_command_takes_over_what_runs() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let (control, gateway) = (workspace.pid("control").unwrap(), workspace.pid("gateway").unwrap());
    let replicas = workspace.replicas("digits");
    let load = Load::start(8, &request(&deployed));
    load.more(200);
    kill(u32::try_from(control).unwrap(), "-9");
    load.more(500);
    let status = workspace.status();
    assert_eq!(
        (&status["control"]["pid"], &status["gateway"]["pid"]),
        (&serde_json::Value::Null, &gateway.into())
    );
    let began = std::time::Instant::now();
    workspace.ok(&["services"]);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_ne!(workspace.pid("control"), Some(control));
    assert_eq!(workspace.pid("gateway"), Some(gateway), "the gateway was taken over");
    workspace.ok(&["deploy", DIGITS]);
    assert_eq!(workspace.replicas("digits"), replicas, "the replica was taken over, and no second one runs");
    let seen = load.end();
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    // The new control plane also restarts the replicas that it adopted.
    kill(replicas[0], "-9");
    wait("the replica is replaced", || {
        let now = workspace.replicas("digits");
        now.len() == 1 && now != replicas
    });
    wait("it serves", || request(&deployed).send().is_ok_and(|answer| answer.0 == 200));
}

#[test]
fn a_killed_gateway_is_back_soon_and_only_what_it_had_under_way_fails() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let load = Load::start(8, &request(&deployed));
    load.more(200);
    let killed = std::time::Instant::now();
    kill(u32::try_from(workspace.pid("gateway").unwrap()).unwrap(), "-9");
    load.more(500);
    let seen = load.end();
    assert!(seen.failures.len() <= 8, "at most one per connection: {:?}", seen.failures);
    let last = seen.failures.iter().map(|failure| failure.at).max();
    assert!(last.is_none_or(|last| last - killed < SOON), "{:?}", seen.failures);
}

#[test]
fn a_killed_replica_fails_only_what_it_had_under_way_and_is_replaced() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS, "--replicas", "2"]);
    let load = Load::start(8, &request(&deployed));
    load.more(200);
    let replicas = workspace.replicas("digits");
    kill(replicas[0], "-9");
    load.more(500);
    wait("the replica is replaced", || {
        let now = workspace.replicas("digits");
        now.len() == 2 && !now.contains(&replicas[0])
    });
    load.more(200);
    let seen = load.end();
    let unexpected: Vec<_> =
        seen.failures.iter().filter(|failure| !failure.what.starts_with("502")).collect();
    assert!(unexpected.is_empty() && seen.failures.len() <= 8, "{:?}", seen.failures);
}

#[test]
fn the_only_replica_is_replaced_while_requests_wait() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS, "--max-wait", "10s"]);
    let replicas = workspace.replicas("digits");
    kill(replicas[0], "-9");
    // The request arrives while no replica runs, and waits for the next one.
    let (status, answer) = request(&deployed).send().unwrap();
    assert_eq!(status, 200, "{answer}");
    assert_ne!(workspace.replicas("digits"), replicas);
}

#[test]
fn when_everything_was_killed_up_brings_back_what_was_wanted() {
    let workspace = Workspace::new();
    workspace.ok(&["up", "--gateway", &own_address()]);
    let deployed = workspace.json(&["deploy", DIGITS]);
    kill(u32::try_from(workspace.pid("control").unwrap()).unwrap(), "-9");
    for (pid, _) in workspace.processes() {
        kill(pid, "-9");
    }
    workspace.ok(&["up"]);
    wait("it serves again", || request(&deployed).send().is_ok_and(|answer| answer.0 == 200));
    assert_eq!(workspace.replicas("digits").len(), 1);
}

#[test]
fn down_stops_everything_and_up_starts_it_at_the_same_address() {
    let workspace = Workspace::new();
    workspace.ok(&["up", "--gateway", &own_address()]);
    let deployed = workspace.json(&["deploy", DIGITS]);
    let address = workspace.status()["gateway"]["address"].clone();
    workspace.ok(&["down"]);
    let status = workspace.status();
    assert!(status["control"]["pid"].is_null() && status["gateway"]["pid"].is_null(), "{status}");
    assert!(workspace.replicas("digits").is_empty());
    workspace.ok(&["down"]);
    let up = workspace.json(&["up"]);
    assert_eq!(up["gateway"]["address"], address);
    wait("it serves again", || request(&deployed).send().is_ok_and(|answer| answer.0 == 200));
}

#[test]
fn a_deployment_goes_on_when_the_control_plane_is_killed_half_way() {
    let workspace = Workspace::new();
    workspace.ok(&["up"]);
    for nth in 0..3 {
        let control = u32::try_from(workspace.pid("control").unwrap()).unwrap();
        let name = format!("d{nth}");
        let begun = workspace.json(&["deploy", DIGITS, "--name", &name, "--no-wait"]);
        kill(control, "-9");
        let id = begun["operation"].to_string();
        let ended = workspace.json(&["operations", "show", &id]);
        assert_eq!(ended["state"], "Succeeded", "{ended}");
        assert!(workspace.ok(&["score", &name]).stdout.starts_with("{\"label\""));
        assert_eq!(workspace.replicas(&name).len(), 1);
    }
}

#[test]
fn a_newer_binary_takes_over_from_older_daemons_without_a_failed_request() {
    let workspace = Workspace::new();
    let older = workspace.folder.path().join("drisse");
    std::fs::copy(env!("CARGO_BIN_EXE_drisse"), &older).unwrap();
    let touched = Command::new("touch").args(["-d", "2020-01-01"]).arg(&older).status().unwrap();
    assert!(touched.success());
    let mut deploy = Command::new(&older);
    let here = workspace.command(&["--output", "json", "deploy", DIGITS]);
    deploy.args(here.get_args()).current_dir(here.get_current_dir().unwrap());
    for (name, value) in here.get_envs() {
        deploy.env(name, value.unwrap_or_default());
    }
    deploy.env_remove("DRISSE_LOG");
    let deployed = ran(deploy).json();
    let before = (workspace.pid("control"), workspace.pid("gateway"), workspace.replicas("digits"));
    let load = Load::start(8, &request(&deployed));
    load.more(200);
    let notes = workspace.ok(&["services"]).stderr;
    assert!(notes.contains("replacing the running control plane, which is older"), "{notes}");
    assert_ne!(workspace.pid("control"), before.0);
    wait("the gateway is replaced", || workspace.pid("gateway").is_some_and(|pid| Some(pid) != before.1));
    wait("the replica is replaced", || {
        let now = workspace.replicas("digits");
        now.len() == 1 && now != before.2
    });
    load.more(500);
    let seen = load.end();
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
    assert_eq!(workspace.ok(&["services"]).stderr, "", "the second time there is nothing to say");
}

#[test]
fn a_second_control_plane_does_not_start() {
    let workspace = Workspace::new();
    workspace.ok(&["up"]);
    let root = workspace.root.to_str().unwrap();
    let ran = workspace.run(&["control", "--workspace", root]);
    assert_eq!(ran.code, 3);
    let log = std::fs::read_to_string(workspace.root.join("logs/control.log")).unwrap();
    assert!(log.contains("error: another control plane has the workspace"), "{log}");
    assert!(workspace.pid("control").is_some());
}

#[test]
fn what_was_stopped_on_purpose_goes_on_with_the_next_up() {
    let workspace = Workspace::new();
    workspace.ok(&["up"]);
    let begun = workspace.json(&["deploy", DIGITS, "--no-wait"]);
    workspace.ok(&["down"]);
    assert!(workspace.replicas("digits").is_empty());
    workspace.ok(&["up"]);
    let ended = workspace.json(&["operations", "show", &begun["operation"].to_string()]);
    assert_eq!(ended["state"], "Succeeded", "{ended}");
    assert!(workspace.ok(&["score", "digits"]).stdout.starts_with("{\"label\""));
}

#[test]
fn files_that_were_damaged_are_not_served_and_deploying_them_again_mends_them() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let whole = std::fs::read(crate::support::root().join(DIGITS)).unwrap();
    let blobs = std::fs::read_dir(workspace.root.join("store/blobs/sha256")).unwrap();
    let weights = blobs.map(|entry| entry.unwrap().path()).find(|path| std::fs::read(path).unwrap() == whole);
    let weights = weights.unwrap();
    let mut bytes = whole.clone();
    // Flips a bit of a weight: the model would still load, and give other answers.
    bytes[2000] ^= 1;
    std::fs::set_permissions(&weights, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&weights, bytes).unwrap();
    let ran = workspace.run(&["update", "digits", "--max-wait", "1s"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("the files of model `digits` are damaged"), "{ran:?}");
    assert_eq!(request(&deployed).send().unwrap().0, 200, "the replica that runs has the whole ones");
    workspace.ok(&["deploy", DIGITS]);
    workspace.ok(&["update", "digits", "--max-wait", "1s"]);
    workspace.ok(&["models", "verify"]);
}

#[test]
fn a_setting_that_cannot_be_used_is_refused_and_leaves_everything_running() {
    let workspace = Workspace::new();
    let deployed = workspace.json(&["deploy", DIGITS]);
    let load = Load::start(2, &request(&deployed));
    load.more(50);
    let ran = workspace.run(&["up", "--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.starts_with("error: cannot serve HTTPS\n  Caused by: cannot read certificate"),
        "{ran:?}"
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ran = workspace.run(&["up", "--gateway", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(ran.code, 1, "{ran:?}");
    load.more(50);
    workspace.ok(&["up"]);
    load.more(50);
    let seen = load.end();
    assert!(seen.failures.is_empty(), "{:?}", seen.failures);
}

#[test]
fn a_full_disk_is_an_error_and_everything_resumes_once_there_is_space() {
    let Some(disk) = Disk::new("size=4m") else {
        assert!(std::env::var_os("CI").is_none(), "a disk of its own is needed here: run as root");
        return;
    };
    let workspace = Workspace::inside(disk.path());
    let deployed = workspace.json(&["deploy", DIGITS]);
    let fill = disk.path().join("fill");
    let mut file = std::fs::File::create(&fill).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    for nth in 1..=5 {
        let ran = workspace.run(&["update", "digits", "--max-wait", &format!("{nth}s")]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.stderr.contains("hint: free some room"), "{ran:?}");
    }
    assert_eq!(request(&deployed).send().unwrap().0, 200);
    drop(file);
    std::fs::remove_file(&fill).unwrap();
    workspace.ok(&["update", "digits", "--max-wait", "9s"]);
    assert_eq!(request(&deployed).send().unwrap().0, 200);
}

#[test]
fn a_database_that_lost_everything_is_refused_and_one_that_was_never_written_is_not() {
    let workspace = Workspace::new();
    std::fs::create_dir_all(&workspace.root).unwrap();
    let database = workspace.root.join("drisse.db");
    std::fs::write(&database, "").unwrap();
    workspace.ok(&["models", "register", DIGITS]);
    workspace.ok(&["down"]);
    let kept = std::fs::read(&database).unwrap();
    for broken in [&b""[..], b"not a database", &kept[..kept.len() / 2]] {
        std::fs::write(&database, broken).unwrap();
        let ran = workspace.run(&["models"]);
        assert!(ran.code > 0 && ran.stderr.contains("drisse.db"), "{ran:?}");
        assert!(ran.stderr.contains("hint: `drisse up --restore`"), "{ran:?}");
    }
    std::fs::write(&database, kept).unwrap();
    assert!(workspace.ok(&["models"]).stdout.contains("digits:1"));
}
