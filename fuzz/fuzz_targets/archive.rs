//! Archives of images, which anybody may have made: no panic, no file outside of their folder, whatever their bytes.
#![no_main]

mod scratch;

use drisse_registry::{image_in, unpack};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| scratch::scratch("archive"));

fuzz_target!(|content: &[u8]| {
    let folder = PLACE.join("inside");
    if unpack(content, &folder).is_ok() {
        let _ = image_in(&folder, None);
    }
    let around = std::fs::read_dir(&*PLACE).expect("it was made").count();
    assert_eq!(around, 1, "something was written beside the folder");
    std::fs::remove_dir_all(&folder).expect("it was made");
});
