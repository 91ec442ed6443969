//! Places in memory for what is written: disks are slow.

use std::path::{Path, PathBuf};

/// A place for this process. What processes left that have ended goes: libFuzzer ends without a last word.
pub fn scratch(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    for entry in std::fs::read_dir(memory).expect("memory to write to").flatten() {
        let file = entry.file_name();
        let owner = file.to_str().and_then(|file| file.strip_prefix("drisse-fuzz-")?.split('-').next());
        let owner = owner.and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
    memory.join(format!("drisse-fuzz-{}-{name}", std::process::id()))
}
