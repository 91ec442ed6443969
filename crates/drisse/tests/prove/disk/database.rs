//! A damaged database is reported with a hint, and its backup restores everything that was acknowledged.

use super::PART;
use super::known::Known;
use crate::proof;
use crate::workspace::{Workspace, is_zombie, kill};
use drisse_testkit::wait;
use std::path::Path;

const PAGE: usize = 4096;

/// Damaged forms of the database file, each with its description; `None` means that the file is removed.
fn damages(whole: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut damages = vec![
        ("gone".to_owned(), None),
        ("empty".to_owned(), Some(vec![])),
        ("something else".to_owned(), Some(b"no database".to_vec())),
        ("cut in half".to_owned(), Some(whole[..whole.len() / 2].to_vec())),
        ("a byte short".to_owned(), Some(whole[..whole.len() - 1].to_vec())),
        ("all zeros".to_owned(), Some(vec![0; whole.len()])),
    ];
    let pages = whole.len() / PAGE;
    let step = if proof::whole() { 1 } else { pages / 3 };
    for page in (0..pages).step_by(step) {
        let mut bytes = whole.to_vec();
        bytes[page * PAGE..][..PAGE].fill(0);
        damages.push((format!("page {page} zeros"), Some(bytes)));
    }
    damages
}

#[test]
fn a_damaged_database_is_reported_and_its_backup_has_everything() {
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    workspace.ok(&["deploy", "examples/digits/digits.onnx", "--tag", "team=vision"]);
    workspace.ok(&["models", "register", "examples/wine"]);
    workspace.ok(&["keys", "digits", "--regenerate", "primary"]);
    let before = Known::of(&workspace);
    workspace.ok(&["down"]);
    let database = workspace.root.join("drisse.db");
    let whole = std::fs::read(&database).unwrap();
    let damages = damages(&whole);
    let (tried, mut reported) = (damages.len(), 0);
    for (how, bytes) in damages {
        std::fs::remove_file(&database).unwrap();
        bytes.iter().for_each(|bytes| std::fs::write(&database, bytes).unwrap());
        let ran = workspace.run(&["services"]);
        // The loss of an empty page goes unnoticed.
        if ran.code != 0 {
            reported += 1;
            assert!(
                ran.stderr.contains("drisse.db") && ran.stderr.contains("`drisse up --restore`"),
                "{ran:?}"
            );
            let doctor = workspace.run(&["doctor"]);
            assert!(doctor.code == 1 && doctor.stdout.contains("up --restore"), "{how}: {doctor:?}");
            let ran = workspace.ok(&["up", "--restore"]);
            assert!(ran.stderr.contains("restored the database's backup of 20"), "{ran:?}");
        }
        assert_eq!(before.missing(&before, &workspace), None, "{how}");
        workspace.ok(&["down"]);
    }
    let kept = std::fs::read_dir(&workspace.root).unwrap().map(|entry| entry.unwrap().file_name());
    let kept = kept.filter(|name| name.to_str().unwrap().starts_with("drisse.db.damaged-")).count();
    assert!(kept > 0, "the damaged database is kept");
    let claim =
        "a damaged database is reported with the date of its backup, and `up --restore` restores everything";
    proof::holds(
        PART,
        claim,
        format!("{reported} of {tried}"),
        "all except empty pages",
        reported + 2 >= tried,
    );
}

#[test]
fn the_backup_follows_each_change_within_seconds_and_is_never_taken_unasked() {
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", "examples/digits"]);
    let backup = workspace.root.join("drisse.db.backup");
    let written = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    wait("the first change is in the backup", || written(&backup).is_some());
    let first = written(&backup);
    workspace.ok(&["models", "register", "examples/wine"]);
    wait("the second change is in the backup", || written(&backup) != first);
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&backup.metadata().unwrap().permissions()) & 0o777,
        0o600
    );
    let refused = workspace.run(&["up", "--restore"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("hint: stop it first: `drisse down`"),
        "{refused:?}"
    );
    let control = u32::try_from(workspace.pid("control").unwrap()).unwrap();
    kill(control, "-9");
    wait("the control plane has ended", || is_zombie(control));
    let log = workspace.root.join("drisse.db-wal");
    workspace.ok(&["up", "--restore"]);
    assert!(workspace.ok(&["models"]).stdout.contains("wine:1"));
    assert!(log.exists(), "the restored database has its own write-ahead log");
}
