//! Models behind symbolic links, as other tools lay them out.

use crate::support::{Serving, output};
use crate::workspace::Workspace;
use drisse_testkit::onnx::{Dim, bytes, number, port};
use std::fs::{create_dir_all, write};
use std::os::unix::fs::symlink;
use std::path::Path;

/// A model `y = x + w` that keeps `w` in the file `model.onnx_data`, and the content of that file: ones.
fn model() -> (Vec<u8>, Vec<u8>) {
    let node = [bytes(1, b"x"), bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"Add")].concat();
    let location = [bytes(1, b"location"), bytes(2, b"model.onnx_data")].concat();
    let weights = [number(1, 4), number(2, 1), bytes(8, b"w"), bytes(13, &location), number(14, 1)].concat();
    let dims = [Dim::Fixed(4)];
    let ports = [port(11, "x", &dims), port(12, "y", &dims)].concat();
    let graph = [bytes(1, &node), bytes(2, b"g"), bytes(5, &weights), ports].concat();
    let model = [number(1, 8), bytes(8, &number(2, 17)), bytes(7, &graph)].concat();
    (model, [1.0_f32; 4].map(f32::to_le_bytes).concat())
}

/// Writes the model into a folder under these names.
fn place(folder: &Path, model_name: &str, data_name: &str) {
    let (model, data) = model();
    create_dir_all(folder).unwrap();
    write(folder.join(model_name), model).unwrap();
    write(folder.join(data_name), data).unwrap();
}

fn link(target: &str, path: &Path) {
    create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

/// Lays out the model as a Hugging Face cache, a volume of Kubernetes and links to a version, and returns the paths that
/// a user would name.
fn layouts(root: &Path) -> Vec<std::path::PathBuf> {
    let hub = root.join("models--acme--adder");
    place(&hub.join("blobs"), "h1", "h2");
    let snapshot = hub.join("snapshots/0123abcd/onnx");
    link("../../../blobs/h1", &snapshot.join("model.onnx"));
    link("../../../blobs/h2", &snapshot.join("model.onnx_data"));
    let volume = root.join("volume");
    place(&volume.join("..2026_11_30"), "model.onnx", "model.onnx_data");
    link("..2026_11_30", &volume.join("..data"));
    for name in ["model.onnx", "model.onnx_data"] {
        link(&format!("..data/{name}"), &volume.join(name));
    }
    place(&root.join("v3"), "model.onnx", "weights-1");
    link("weights-1", &root.join("v3/model.onnx_data"));
    link("v3/model.onnx", &root.join("current.onnx"));
    link("v3", &root.join("current"));
    let files = [snapshot.join("model.onnx"), volume.join("model.onnx"), root.join("current.onnx")];
    [&files[..], &[snapshot, volume, root.join("current")]].concat()
}

#[test]
fn links_of_common_tools_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for path in layouts(folder.path()) {
        let serving = Serving::start(&[path.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
        let (status, answer) = serving.post("/score", "", "{\"data\":[1,2,3,4]}");
        assert_eq!((status, &*answer), (200, "{\"y\":[2.0,3.0,4.0,5.0]}"), "{}", path.display());
        names.push(serving.document["models"][0]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names, ["adder", "volume", "current", "adder", "volume", "current"]);
}

#[test]
fn a_link_that_leads_elsewhere_is_followed_only_if_the_user_says_so() {
    let workspace = Workspace::new();
    let folder = workspace.folder.path();
    place(&folder.join("cache"), "model.onnx", "shared-data");
    write(folder.join("secret.json"), "{}").unwrap();
    let package = folder.join("package");
    create_dir_all(&package).unwrap();
    std::fs::copy(folder.join("cache/model.onnx"), package.join("model.onnx")).unwrap();
    link("../cache/shared-data", &package.join("model.onnx_data"));
    let path = package.to_str().unwrap();
    for command in ["inspect", "serve"] {
        let (code, _, stderr) = output(&[command, path]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("is a link to") && stderr.contains("--follow-links"), "{stderr}");
    }
    let refused = workspace.run(&["deploy", path]);
    assert!(refused.code == 1 && refused.stderr.contains("cp -rL"), "{}", refused.stderr);
    assert_eq!(workspace.status()["running"], false, "nothing was started");
    let deployed = workspace.ok(&["deploy", path, "--follow-links"]);
    let target = folder.join("cache/shared-data").canonicalize().unwrap();
    let line = format!("follows the link {path}/model.onnx_data to {}", target.display());
    assert!(deployed.stderr.contains(&line), "{}", deployed.stderr);
    // A sample is a file of the model, too.
    std::fs::remove_file(package.join("model.onnx_data")).unwrap();
    std::fs::copy(&target, package.join("model.onnx_data")).unwrap();
    workspace.ok(&["models", "register", path, "--name", "other"]);
    link("../secret.json", &package.join("sample.json"));
    let refused = workspace.run(&["models", "register", path, "--name", "other"]);
    assert!(refused.code == 1 && refused.stderr.contains("sample.json is a link to"), "{}", refused.stderr);
}
