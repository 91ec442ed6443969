//! Temporary files and folders in memory, because disks are slow.

use std::path::{Path, PathBuf};

/// Returns a path for this process in /dev/shm. Removes the files of ended processes, because libFuzzer exits without
/// running destructors.
pub fn scratch(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    for entry in std::fs::read_dir(memory).expect("/dev/shm is readable").flatten() {
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
