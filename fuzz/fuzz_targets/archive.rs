//! Archives of images from untrusted sources: unpacking any bytes never panics and never writes outside the folder.

use crate::scratch;
use drisse_registry::{image_in, unpack};
use std::path::PathBuf;
use std::sync::LazyLock;

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| scratch::scratch("archive"));

pub fn fuzz(content: &[u8]) {
    let folder = PLACE.join("inside");
    if unpack(content, &folder).is_ok() {
        let _ = image_in(&folder, None);
    }
    let around = std::fs::read_dir(&*PLACE).expect("the folder exists").count();
    assert_eq!(around, 1, "a file was written outside the folder");
    std::fs::remove_dir_all(&folder).expect("the folder exists");
}
