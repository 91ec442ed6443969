//! Model files: no panic, bounded memory, whatever their bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Write;

fuzz_target!(|content: &[u8]| {
    // A file in memory: the inspector reads files, and disks are slow.
    let path = std::path::PathBuf::from(format!("/dev/shm/drisse-fuzz-{}", std::process::id()));
    std::fs::File::create(&path).and_then(|mut file| file.write_all(content)).expect("memory to write to");
    let _ = drisse_registry::inspect(&path);
});
