//! Hostile models: files that are not models, declare false sizes, refer to other files, or need more memory than there
//! is.

use super::hostile::{external, model, nested, short_weights, up_to};
use super::{every, host, over_tcp, request, statuses};
use crate::proof::among_others;
use crate::support::Serving;
use crate::workspace::Workspace;
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const TEBIBYTE: u64 = 1 << 40;

/// The limit for a refusal. Reading a sparse file of a tebibyte takes minutes, and waiting for a pipe never ends.
const SOON: Duration = Duration::from_secs(20);

/// The limit for the memory of a control plane or a scoring server with a hostile model, in bytes.
const MEMORY: u64 = 512 << 20;

/// The peak resident memory of a process, in bytes.
fn peak(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn sparse(path: &Path, head: &[u8]) {
    std::fs::write(path, head).unwrap();
    File::options().write(true).open(path).unwrap().set_len(TEBIBYTE).unwrap();
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

type Make = fn(&Path);

/// Hostile models, each with the code that makes it in a folder (as `m.onnx`) and a part of the expected message.
#[rustfmt::skip]
const REFUSED: &[(&str, Make, &str)] = &[
    ("a pipe",                       |f| pipe(&f.join("m.onnx")), "a device or a pipe"),
    ("a link to a device",           |f| symlink("/dev/zero", f.join("m.onnx")).unwrap(), "a device or a pipe"),
    ("a link to itself",             |f| symlink("m.onnx", f.join("m.onnx")).unwrap(), "cannot read"),
    ("a folder that loops",          |f| { std::fs::create_dir(f.join("m.onnx")).unwrap(); symlink("..", f.join("m.onnx/up")).unwrap(); }, "holds no .onnx file"),
    ("a tebibyte of holes",          |f| sparse(&f.join("m.onnx"), b""), "not a valid ONNX model"),
    ("a model and a tebibyte",       |f| sparse(&f.join("m.onnx"), &up_to(TEBIBYTE)), "a model file has at most 2047"),
    ("data at an absolute path",     |f| with(f, "/etc/passwd"), "is an absolute path"),
    ("data above the folder",        |f| with(f, "../../../../../../etc/passwd"), "leads out of the model's folder"),
    ("data behind a link",           |f| { symlink("/etc/passwd", f.join("w")).unwrap(); with(f, "w"); }, "is a link"),
    ("data behind a linked folder",  |f| { symlink("/etc", f.join("w")).unwrap(); with(f, "w/passwd"); }, "is a link"),
    ("data behind two links",        |f| { symlink("/etc", f.join("v")).unwrap(); symlink("v/passwd", f.join("w")).unwrap(); with(f, "w"); }, "is a link"),
    ("data behind a link upwards",   |f| { symlink("../../../../../../etc/passwd", f.join("w")).unwrap(); with(f, "w"); }, "is a link"),
    ("a sample behind a link",       |f| { symlink("/etc/passwd", f.join("sample.json")).unwrap(); write(f, &model(&[4], &[])); }, "is a link"),
    ("data in a pipe",               |f| { pipe(&f.join("w")); with(f, "w"); }, "is not a regular file"),
    ("data in a folder",             |f| { std::fs::create_dir(f.join("w")).unwrap(); with(f, "w"); }, "is not a regular file"),
    ("data in a tebibyte of holes",  |f| { sparse(&f.join("w"), b""); with(f, "w"); }, "almost nothing but holes"),
    ("subgraphs in subgraphs",       |f| write(f, &model(&[4], &[nested(500)])), "nested too deep"),
    ("a model that is cut off",      |f| write(f, &model(&[4], &[])[..40]), "is truncated"),
    ("weights over 2^63",            |f| write(f, &short_weights(&[1 << 40, 1 << 40])), ""),
    ("weights of a tebibyte",        |f| write(f, &short_weights(&[1 << 38])), ""),
    ("subgraphs that protobuf reads", |f| write(f, &model(&[4], &[nested(30)])), ""),
];

fn write(folder: &Path, content: &[u8]) {
    std::fs::write(folder.join("m.onnx"), content).unwrap();
}

fn with(folder: &Path, location: &str) {
    write(folder, &model(&[4], &[external(location)]));
}

#[test]
fn a_hostile_model_is_refused_at_once_and_harms_nothing() {
    let _others = among_others();
    let workspace = Workspace::new();
    workspace.ok(&["up"]);
    let control = workspace.pid("control");
    let mut wrong = Vec::new();
    for (nth, (what, make, why)) in REFUSED.iter().enumerate() {
        let folder = workspace.folder.path().join(nth.to_string());
        std::fs::create_dir(&folder).unwrap();
        make(&folder);
        let path = folder.join("m.onnx");
        let began = Instant::now();
        let ran = workspace.run(&[
            "deploy",
            path.to_str().unwrap(),
            "--name",
            &format!("m{nth}"),
            "--timeout",
            "15s",
        ]);
        // Files with false shapes are refused by the engine, in the process of the replica.
        let refused = ran.stderr.contains(why) || ran.stderr.contains("exited with code 1");
        if ran.code != 1 || !refused || began.elapsed() > SOON {
            wrong.push(format!("{what}: after {:?}: {ran:?}", began.elapsed()));
        }
    }
    let pid = control.unwrap();
    let (peak, same) = (peak(pid), workspace.pid("control") == control);
    if !same || peak > MEMORY {
        wrong.push(format!("the control plane: {} MiB, the same: {same}", peak >> 20));
    }
    let claim = "A hostile model file or folder is refused within 20 s; the control plane survives and uses less than 512 MiB";
    every(claim, REFUSED.len(), &wrong);
}

#[test]
fn what_a_models_data_was_linked_to_may_change_and_the_model_does_not() {
    let _others = among_others();
    let workspace = Workspace::new();
    let folder = workspace.folder.path().join("linked");
    std::fs::create_dir(&folder).unwrap();
    let foreign = workspace.folder.path().join("foreign");
    std::fs::write(&foreign, [0; 16]).unwrap();
    std::fs::hard_link(&foreign, folder.join("w")).unwrap();
    with(&folder, "w");
    workspace.ok(&["models", "register", folder.join("m.onnx").to_str().unwrap(), "--name", "linked"]);
    std::fs::write(&foreign, [1; 16]).unwrap();
    let verified = workspace.run(&["models", "verify"]);
    let mut wrong: Vec<_> =
        [verified].into_iter().filter(|ran| ran.code != 0).map(|ran| ran.stderr).collect();
    if std::fs::metadata(&foreign).map(|m| std::os::unix::fs::MetadataExt::nlink(&m)).unwrap() != 2 {
        wrong.push("the store has a hard link to the file".to_owned());
    }
    every("Model data with hard links outside the model's folder is copied when it is registered", 1, &wrong);
}

#[test]
fn samples_that_never_end_are_refused() {
    let _others = among_others();
    let workspace = Workspace::new();
    let waits = workspace.folder.path().join("pipe");
    pipe(&waits);
    let samples: [PathBuf; 2] = [waits, "/dev/zero".into()];
    let refused =
        |sample: &PathBuf| workspace.run(&["deploy", super::DIGITS, "--sample", sample.to_str().unwrap()]);
    let wrong: Vec<_> = samples.iter().map(refused).filter(|ran| ran.code != 1).collect();
    every("A sample that is a pipe or a device is refused, not read", samples.len(), &wrong);
}

#[test]
fn a_request_for_more_than_there_is_is_refused_and_the_server_lives() {
    let _others = among_others();
    let models =
        ["crates/drisse-engines/tests/models/fill.onnx", "crates/drisse-engines/tests/models/slow.onnx"];
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &model(&[1 << 40, 1 << 40], &[]));
    let vast = folder.path().join("m.onnx");
    let all = [&models[..], &[vast.to_str().unwrap(), "--listen", "127.0.0.1:0", "--scoring-timeout", "1s"]]
        .concat();
    let server = Serving::start(&all);
    let address = host(server.url());
    let asks = [
        ("a tensor of a tebibyte", "/score/fill", format!("{{\"data\":[{}]}}", TEBIBYTE / 4)),
        ("a tensor of 2^63 numbers", "/score/fill", format!("{{\"data\":[{}]}}", i64::MAX)),
        ("a tensor of less than nothing", "/score/fill", "{\"data\":[-1]}".to_owned()),
        ("a loop of 2^63 rounds", "/score/slow", format!("{{\"data\":[{}]}}", i64::MAX)),
        ("fewer numbers than 2^80", "/score/m", "{\"data\":[[1]]}".to_owned()),
        ("lists in lists", "/score/fill", "[".repeat(1 << 20)),
        ("a million inputs", "/score/fill", format!("{{{}\"x\":1}}", "\"a\":1,".repeat(1 << 20))),
    ];
    let mut wrong = Vec::new();
    for (what, path, body) in &asks {
        let answer = over_tcp(&address, &request("POST", path, "", body));
        if !matches!(*statuses(&answer), [400 | 413 | 504]) {
            wrong.push(format!("{what}: {}", &answer[..answer.floor_char_boundary(500)]));
        }
    }
    let good = statuses(&over_tcp(&address, &request("POST", "/score/fill", "", "{\"data\":[2]}")));
    let peak = peak(server.child.id().into());
    if good != [200] || peak > MEMORY {
        wrong.push(format!("afterwards: {good:?}, {} MiB", peak >> 20));
    }
    let claim = "A request that needs more memory or time than there is gets a 4xx or 504; the server survives and uses \
                 less than 512 MiB";
    every(claim, asks.len(), &wrong);
}
