//! Configurations of other servers beside a model: no text makes reading them panic, use much memory or lead to a file
//! outside of the model's folder.

use crate::scratch;
use drisse_registry::ModelSource;
use std::path::PathBuf;
use std::sync::LazyLock;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = scratch::scratch("layout");
    std::fs::create_dir_all(folder.join("1")).expect("/dev/shm is writable");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/iris/iris.onnx");
    std::fs::copy(example, folder.join("1/model.onnx")).expect("/dev/shm is writable");
    folder
});

const NAMES: [&str; 3] = ["config.pbtxt", "MLmodel", "model-settings.json"];

/// The first byte chooses the file, and the others are its text.
pub fn fuzz(content: &[u8]) {
    let Some((first, text)) = content.split_first() else { return };
    let path = FOLDER.join(NAMES[usize::from(*first) % NAMES.len()]);
    std::fs::write(&path, text).expect("/dev/shm is writable");
    if let Ok(source) = ModelSource::open(&FOLDER) {
        assert!(source.inspection.path.starts_with(&*FOLDER));
        assert!(source.sample.is_none_or(|sample| sample.starts_with(&*FOLDER)));
    }
    std::fs::remove_file(path).expect("the file exists");
}
