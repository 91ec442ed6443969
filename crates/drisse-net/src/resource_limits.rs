//! The resource limits of this process. They are read from `/proc` (proc(5), `limits`): a sandbox may refuse the system call.

use rustix::process::{Resource, Rlimit, setrlimit};

/// The soft and the hard value of a resource limit; `u64::MAX` means no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceLimit {
    /// The value in force.
    pub soft: u64,
    /// The value up to which an unprivileged process may raise it.
    pub hard: u64,
}

impl ResourceLimit {
    /// Returns the limit of this process that `/proc/self/limits` calls `name`, such as `Max open files`; no limit if it
    /// cannot be read.
    pub fn of(name: &str) -> Self {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self::parse(&limits, name).unwrap_or(Self { soft: u64::MAX, hard: u64::MAX })
    }

    fn parse(limits: &str, name: &str) -> Option<Self> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let mut values = line.split_whitespace().map(|value| match value {
            "unlimited" => Some(u64::MAX),
            value => value.parse().ok(),
        });
        Some(Self { soft: values.next()??, hard: values.next()?? })
    }
}

/// Raises the limit of open files of this process to its maximum, and returns the limit.
pub(crate) fn open_files() -> usize {
    const FILES: &str = "Max open files";
    let hard = Some(ResourceLimit::of(FILES).hard).filter(|&files| files < u64::MAX);
    // If raising fails, the current limit remains.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    usize::try_from(ResourceLimit::of(FILES).soft).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_by_their_names() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max core file size        0                    unlimited            bytes     \n\
                      Max open files            1024                 1048576              files     \n";
        let of = |name| ResourceLimit::parse(limits, name);
        assert_eq!(of("Max core file size"), Some(ResourceLimit { soft: 0, hard: u64::MAX }));
        assert_eq!(of("Max open files"), Some(ResourceLimit { soft: 1024, hard: 1 << 20 }));
        assert_eq!(of("Max"), None);
        assert!(ResourceLimit::of("Max open files").soft > 0);
    }
}
