//! One bounded arena for everything ONNX Runtime allocates: a client that asks for a tensor of a
//! hundred gigabytes gets an error, not the server's death.
#![expect(unsafe_code, reason = "the arena is registered through the C API")]

use super::value::check;
use ort::AsPointer;
use ort::environment::Environment;
use ort::sys::{OrtAllocatorType, OrtMemType};
use std::ptr::null_mut;

/// ONNX Runtime grows an arena by what is asked for, instead of doubling it.
const SAME_AS_REQUESTED: i32 = 1;

/// Leave the choice to ONNX Runtime.
const DEFAULT: i32 = -1;

/// Registers an arena of at most `max_bytes` for sessions that say `session.use_env_allocators`.
pub(super) fn register(environment: &Environment, max_bytes: usize) -> ort::Result<()> {
    let api = ort::api();
    let (mut memory, mut config) = (null_mut(), null_mut());
    let (allocator, kind) = (OrtAllocatorType::OrtArenaAllocator, OrtMemType::OrtMemTypeDefault);
    // SAFETY: each object is made before it is used and released once; the environment copies the
    // configuration and keeps the allocator until it is released itself.
    unsafe {
        check((api.CreateCpuMemoryInfo)(allocator, kind, &mut memory))?;
        let result = check((api.CreateArenaCfg)(max_bytes, SAME_AS_REQUESTED, DEFAULT, DEFAULT, &mut config))
            .and_then(|()| {
                check((api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory, config))
            });
        if !config.is_null() {
            (api.ReleaseArenaCfg)(config);
        }
        (api.ReleaseMemoryInfo)(memory);
        result
    }
}

/// Nine tenths of what this process may use: its cgroup's limit (v2, then v1) or the machine's memory.
pub(super) fn allowance() -> usize {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let machine = || -> Option<usize> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().split(' ').next()?.parse::<usize>().ok()? * 1024)
    };
    let limits = [
        number("/sys/fs/cgroup/memory.max"),
        number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        machine(),
    ];
    // Without any of them the address space is the bound, as it was.
    limits.into_iter().flatten().min().map_or(usize::MAX, |bytes| bytes / 10 * 9)
}
