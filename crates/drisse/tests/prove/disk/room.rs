//! A disk without enough free space, and a read-only disk.

use super::{PART, known::Known};
use crate::proof;
use crate::workspace::{Disk, Workspace};
use std::fs::File;
use std::io::Write;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Free space, in KiB: enough for nothing, for one page, or for some files but not for others.
const LEFT: [usize; 6] = [0, 4, 16, 64, 160, 400];

/// Fills the disk except for `left` KiB, with a file that the caller removes.
fn fill(disk: &Path, left: usize) -> std::path::PathBuf {
    let path = disk.join("fill");
    let mut file = File::create(&path).unwrap();
    let mut size = 0;
    while file.write_all(&[1; 4096]).is_ok() {
        size += 4096;
    }
    file.set_len(size.max(left as u64 * 1024) - left as u64 * 1024).unwrap();
    path
}

#[test]
fn on_a_nearly_full_disk_a_command_succeeds_or_is_refused_with_a_hint_and_services_go_on() {
    let Some(disk) = Disk::new("size=16m") else {
        assert!(std::env::var_os("CI").is_none(), "CI requires mounting a disk: run as root");
        return;
    };
    let _guard = proof::among_others();
    let workspace = Workspace::inside(disk.path());
    workspace.ok(&["deploy", "examples/digits/digits.onnx"]);
    let (mut refused, mut done) = (0, 0);
    for (number, left) in LEFT.into_iter().enumerate() {
        for (nth, command) in ["register", "update", "keys", "delete"].into_iter().enumerate() {
            let before = Known::of(&workspace);
            let full = fill(disk.path(), left);
            let file = workspace.variant(&format!("v{number}-{nth}")).display().to_string();
            let words = match command {
                "register" => vec!["models", "register", &file],
                "update" => vec!["update", "digits", &file],
                "keys" => vec!["keys", "digits", "--regenerate", "secondary"],
                _ => vec!["models", "prune"],
            };
            let mut running = workspace.command(&words);
            let mut running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(running.stderr.take().unwrap()).lines().map(Result::unwrap);
            // The command ends, or prints what it waits for.
            let mut said = Vec::new();
            for line in lines.by_ref() {
                said.push(line);
                if said.last().is_some_and(|line| line.contains("free some room")) {
                    break;
                }
            }
            workspace.ok(&["score", "digits"]);
            std::fs::remove_file(full).unwrap();
            lines.for_each(drop);
            match running.wait().unwrap().code() {
                Some(0) => done += 1,
                _ => {
                    refused += 1;
                    let hint = said.last().is_some_and(|line| line.contains("free some room"));
                    assert!(hint, "{left} KiB, {words:?}: {said:?}");
                    workspace.ok(&words);
                }
            }
            let mut next = Known::of(&workspace);
            next.models.extend(before.models.clone());
            assert_eq!(before.missing(&next, &workspace), None, "{left} KiB, {words:?}");
        }
    }
    let claim = "on a full or nearly full disk, a command succeeds or is refused with a hint; services go on, and the \
                 same command works once there is free space";
    let figure = format!("{refused} refused, {done} succeeded");
    proof::holds(PART, claim, figure, "every command", refused > 0 && done > 0);
}

#[test]
fn a_read_only_disk_is_reported_and_once_it_is_writable_everything_goes_on() {
    let Some(disk) = Disk::new("size=16m") else {
        assert!(std::env::var_os("CI").is_none(), "CI requires mounting a disk: run as root");
        return;
    };
    let _guard = proof::among_others();
    let workspace = Workspace::inside(disk.path());
    workspace.ok(&["deploy", "examples/digits/digits.onnx"]);
    let before = Known::of(&workspace);
    workspace.ok(&["down"]);
    let remount = |how: &str| {
        let mounted = Command::new("mount").args(["-o", how]).arg(disk.path()).status().unwrap();
        assert!(mounted.success());
    };
    remount("remount,ro");
    for words in [&["up"][..], &["services"], &["up", "--restore"]] {
        let ran = workspace.run(words);
        let reported = ran.stderr.contains("Read-only file system") && ran.stderr.contains("\nhint: ");
        assert!(ran.code != 0 && reported, "{ran:?}");
    }
    let doctor = workspace.run(&["doctor"]);
    let words = ["read-only", "findmnt", "database", "ok"];
    assert!(doctor.code == 1 && words.iter().all(|word| doctor.stdout.contains(word)), "{doctor:?}");
    workspace.ok(&["status"]);
    remount("remount,rw");
    let missing = before.missing(&before, &workspace);
    let claim = "a read-only disk is reported with a hint; once it is writable again, everything is there";
    proof::holds(PART, claim, missing.as_deref().unwrap_or("everything"), "everything", missing.is_none());
}
