//! Files of a workspace: other users cannot open them, whatever the umask is.

use super::{DIGITS, below, every, sockets};
use crate::proof::among_others;
use crate::support::{library, root};
use crate::workspace::Workspace;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Command;

#[test]
fn under_any_umask_nothing_is_open_to_others() {
    let _others = among_others();
    let workspace = Workspace::new();
    let cache = workspace.folder.path().join("cache");
    let drisse = |arguments: &[&str]| {
        let command = workspace.command(arguments);
        let mut shell = Command::new("sh");
        shell.args(["-c", "umask 000; exec \"$@\"", "sh"]).arg(command.get_program());
        shell.args(command.get_args()).current_dir(root()).env("DRISSE_WORKSPACE", &workspace.root);
        shell.env("XDG_CACHE_HOME", &cache).env("DRISSE_ONNXRUNTIME", library());
        assert!(shell.output().unwrap().status.success(), "{arguments:?}");
    };
    drisse(&["up", "--control", "127.0.0.1:0"]);
    drisse(&["deploy", DIGITS]);
    drisse(&["deploy", "examples/iris/iris.onnx", "--replicas", "2"]);
    drisse(&["score", "digits"]);
    drisse(&["keys", "digits", "--regenerate", "primary"]);
    let sockets = sockets(&workspace);
    let mut places = below(&workspace.root);
    places.extend(below(&sockets));
    places.push(sockets.parent().unwrap().to_owned());
    let kinds = |is: fn(&std::fs::FileType) -> bool| {
        places.iter().filter(|path| is(&path.symlink_metadata().unwrap().file_type())).count()
    };
    assert!(kinds(FileTypeExt::is_socket) >= 9 && kinds(std::fs::FileType::is_file) >= 20, "{places:#?}");
    let open: Vec<_> = places
        .iter()
        .filter_map(|path| {
            let mode = path.symlink_metadata().unwrap().permissions().mode();
            (mode & 0o077 != 0).then(|| format!("{} has mode {mode:o}", path.display()))
        })
        .collect();
    let claim = "Even under umask 000, other users cannot open any file, folder or socket of a workspace";
    every(claim, places.len(), &open);
}

#[test]
fn a_folder_of_another_user_is_refused_as_a_workspace() {
    let _others = among_others();
    if !super::as_root("a workspace in a folder of another user") {
        return;
    }
    let workspace = Workspace::new();
    std::fs::create_dir(&workspace.root).unwrap();
    std::os::unix::fs::chown(&workspace.root, Some(super::STRANGER), None).unwrap();
    let ran = workspace.run(&["deploy", DIGITS]);
    let refused = ran.code == 1 && ran.stderr.contains("it belongs to another user");
    std::os::unix::fs::chown(&workspace.root, Some(0), None).unwrap();
    let claim = "A folder that another user can change is refused as a workspace";
    every(claim, 1, &[ran].iter().filter(|_| !refused).collect::<Vec<_>>());
}
