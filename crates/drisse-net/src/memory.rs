//! Protects the memory of a process, which holds keys and data, from core dumps and from other processes.

use crate::resource_limits::ResourceLimit;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// The size limit of a core file, in bytes. No core file is this small. The kernel also starts no core handler if the
/// limit is 1, which it does if the limit is 0 (`coredump_pipe` in fs/coredump.c).
const NO_CORE: u64 = 1;

/// Keeps the memory of this process out of core dumps and unreadable for other processes of its user.
///
/// A hard limit of 0 for core files stays: it is stricter. If the system refuses a call, the other one has to do, and the
/// log says so.
///
/// If `/proc` is mounted with `hidepid`, users see only processes that they may trace. They would not see their own
/// processes that cannot be dumped, and replicas could not be found again. Then only the size limit is set.
pub fn keep_memory_private() {
    if ResourceLimit::of("Max core file size").hard >= NO_CORE
        && let Err(error) =
            setrlimit(Resource::Core, Rlimit { current: Some(NO_CORE), maximum: Some(NO_CORE) })
    {
        tracing::warn!("cannot limit the size of core dumps, which may contain keys: {error}");
    }
    if !hides_processes(&std::fs::read_to_string("/proc/self/mounts").unwrap_or_default())
        && let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable)
    {
        tracing::warn!("cannot keep other processes of this user from reading keys in memory: {error}");
    }
}

/// Returns whether `/proc` shows users only the processes that they may trace (proc(5), `hidepid`).
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
    fn a_proc_that_hides_processes_is_recognized_by_its_mount() {
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
