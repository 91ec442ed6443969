//! A process's memory holds keys and data: none of it may be left in a core dump.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core file is that small; to the kernel it says too that no core handler is to be started, which 0
/// does not (`coredump_pipe` in fs/coredump.c).
const NO_CORE: u64 = 1;

/// Keeps this process's memory out of core dumps, and out of reach of other processes of its user.
///
/// Where `/proc` is mounted with `hidepid`, users see only processes that they could trace, and so none that
/// cannot be dumped, not even their own: replicas would not be found again. There the limit alone stands.
pub fn keep_memory_private() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(NO_CORE), maximum: Some(NO_CORE) })?;
    if !hides_processes(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default()) {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

/// Whether `/proc` shows users only processes that they may look into: proc(5), `hidepid`.
fn hides_processes(mounts: &str) -> bool {
    let proc = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/proc"));
    let options = proc.and_then(|line| line.split(' ').nth(3)).unwrap_or_default();
    options
        .split(',')
        .any(|option| option.strip_prefix("hidepid=").is_some_and(|how| !matches!(how, "0" | "off")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proc_that_hides_processes_is_told_by_its_mount() {
        for (mounts, hides) in [
            ("proc /proc proc rw,relatime 0 0\n", false),
            ("proc /proc proc rw,hidepid=0 0 0\n", false),
            ("proc /proc proc rw,hidepid=invisible 0 0\n", true),
            ("proc /proc proc rw,relatime 0 0\nproc /proc proc rw,gid=4,hidepid=2 0 0\n", true),
            ("", false),
        ] {
            assert_eq!(hides_processes(mounts), hides, "{mounts}");
        }
    }
}
