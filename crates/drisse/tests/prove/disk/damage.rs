//! Damaged files of the store (a flipped bit, truncated, removed) are reported, never served, and repaired.

use super::{PART, models};
use crate::proof;
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};

/// A flipped bit, a removed file, a truncated file.
const DAMAGES: [&str; 3] = ["flipped", "gone", "cut off"];

fn damage(path: &Path, how: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    // Replaces the file instead of changing it: a view, which is a hard link, keeps the undamaged one.
    std::fs::remove_file(path).unwrap();
    match how {
        "flipped" => bytes[middle] ^= 1,
        "gone" => return,
        _ => bytes.truncate(middle),
    }
    std::fs::write(path, bytes).unwrap();
}

/// Flips a bit in the file itself, so that views (hard links) are damaged too.
fn damage_in_place(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn blobs(workspace: &Workspace) -> Vec<PathBuf> {
    let blobs = std::fs::read_dir(workspace.root.join("store/blobs/sha256")).unwrap();
    let mut blobs: Vec<_> = blobs.map(|entry| entry.unwrap().path()).collect();
    blobs.sort();
    blobs
}

/// The path of the blob with these bytes.
fn blob(workspace: &Workspace, bytes: &[u8]) -> PathBuf {
    blobs(workspace).into_iter().find(|path| std::fs::read(path).unwrap() == bytes).unwrap()
}

#[test]
fn every_damaged_file_of_a_model_is_reported_and_repaired_to_the_same_digests() {
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    workspace.ok(&["models", "register", "examples/digits"]);
    workspace.ok(&["models", "register", models::split(&workspace).to_str().unwrap()]);
    let before = workspace.json(&["models"]);
    let (mut tried, mut restored) = (0, 0);
    for path in blobs(&workspace) {
        for how in DAMAGES {
            damage(&path, how);
            let ran = workspace.run(&["models", "verify"]);
            assert!(ran.code == 1 && ran.stderr.contains("hint: `drisse models verify --repair`"), "{ran:?}");
            let repaired = workspace.run(&["models", "verify", "--repair"]);
            let whole =
                workspace.run(&["models", "verify"]).code == 0 && workspace.json(&["models"]) == before;
            assert!(repaired.code == 0 && whole, "{} {how}: {repaired:?}", path.display());
            (tried, restored) = (tried + 1, restored + u32::from(whole));
        }
    }
    let claim =
        "`models verify` finds every damaged file of a model, and `--repair` restores it byte for byte";
    proof::holds(PART, claim, format!("{restored} of {tried}"), "all", restored == tried && tried >= 30);
}

#[test]
fn a_damaged_model_is_not_served_and_is_repaired_from_files_elsewhere_under_any_name() {
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    let file = workspace.variant("mine");
    workspace.ok(&["deploy", file.to_str().unwrap()]);
    let bytes = std::fs::read(&file).unwrap();
    let kept = workspace.folder.path().join("copies/of/mine.bak");
    std::fs::create_dir_all(kept.parent().unwrap()).unwrap();
    std::fs::rename(&file, &kept).unwrap();
    damage_in_place(&blob(&workspace, &bytes));
    let refused = workspace.run(&["update", "digits", "--max-wait", "2s"]);
    assert!(refused.code == 1 && refused.stderr.contains("are damaged"), "{refused:?}");
    workspace.ok(&["score", "digits"]);
    let ran = workspace.run(&["models", "verify", "digits", "--repair"]);
    assert!(ran.code == 1 && ran.stderr.contains("digits.onnx") && ran.stderr.contains("--from"), "{ran:?}");
    let copies = workspace.folder.path().join("copies");
    let ran = workspace.ok(&["models", "verify", "digits", "--repair", "--from", copies.to_str().unwrap()]);
    assert_eq!(ran.stdout, "1 models are intact, 1 repaired\n");
    workspace.ok(&["update", "digits", "--max-wait", "2s"]);
    workspace.ok(&["score", "digits"]);
}

#[test]
fn while_a_models_list_of_files_is_damaged_none_of_them_is_taken_for_garbage() {
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    let file = workspace.variant("mine");
    workspace.ok(&["models", "register", file.to_str().unwrap()]);
    workspace.ok(&["models", "register", "examples/wine"]);
    let bytes = std::fs::read(&file).unwrap();
    let model = workspace.json(&["models", "show", "digits"]);
    let manifest = model["manifest_digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    std::fs::remove_file(workspace.root.join("store/blobs/sha256").join(manifest)).unwrap();
    let refused = workspace.run(&["models", "prune"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("hint: run `drisse models verify --repair`"),
        "{refused:?}"
    );
    workspace.ok(&["models", "delete", "wine:1"]);
    assert_eq!(std::fs::read(blob(&workspace, &bytes)).unwrap(), bytes);
    workspace.ok(&["models", "verify", "--repair"]);
    assert_eq!(workspace.json(&["models", "show", "digits"]), model);
    workspace.ok(&["models", "prune"]);
}

#[test]
fn what_only_a_running_models_folder_still_has_is_taken_from_there() {
    let _guard = proof::among_others();
    let workspace = Workspace::new();
    let file = workspace.variant("mine");
    workspace.ok(&["deploy", file.to_str().unwrap()]);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_dir_all(workspace.root.join("store/blobs/sha256")).unwrap();
    std::fs::create_dir(workspace.root.join("store/blobs/sha256")).unwrap();
    workspace.ok(&["models", "verify", "--repair"]);
    assert_eq!(std::fs::read(blob(&workspace, &bytes)).unwrap(), bytes);
    workspace.ok(&["update", "digits", "--max-wait", "2s"]);
}
