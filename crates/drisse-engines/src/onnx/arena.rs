//! A bounded arena for all memory that ONNX Runtime allocates: a request for a tensor of a hundred gigabytes fails, and
//! the server survives.
#![expect(unsafe_code, reason = "the arena is registered through the C API")]

use super::value::check;
use ort::AsPointer;
use ort::environment::Environment;
use ort::session::{RunOptions, Session};
use ort::sys::{OrtAllocatorType, OrtMemType};
use ort::value::Tensor;
use std::ptr::null_mut;

/// `kSameAsRequested`: ONNX Runtime grows the arena by the requested size, instead of doubling it.
const SAME_AS_REQUESTED: i32 = 1;

/// ONNX Runtime chooses the value.
const DEFAULT: i32 = -1;

/// Registers an arena of at most `max_bytes` for sessions with `session.use_env_allocators`.
pub(super) fn register(environment: &Environment, max_bytes: usize) -> ort::Result<()> {
    let api = ort::api();
    let (mut memory, mut config) = (null_mut(), null_mut());
    let (allocator, kind) = (OrtAllocatorType::OrtArenaAllocator, OrtMemType::OrtMemTypeDefault);
    // SAFETY: each object is created before it is used and released once; the environment copies the
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

/// A model that does nothing: `Identity` of an empty tensor.
const NOTHING: &[u8] = b"\x08\x07:6\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x00Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x00\
                         b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x00B\x04\n\x00\x10\r";

/// Returns the arena's unused memory to the system. ONNX Runtime does so at the end of a run that requests it, but
/// before that run's outputs are released. Therefore a run of another, empty model requests it.
pub(super) fn shrink(environment: &Environment) {
    let shrunk = || -> ort::Result<()> {
        let mut session = Session::builder(environment)?
            .with_intra_threads(1)?
            .with_env_allocators()?
            .commit_from_memory(NOTHING)?;
        let mut options = RunOptions::new()?;
        options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
        let none = Tensor::from_array((vec![0_i64], Vec::<f32>::new()))?;
        session.run_with_options(ort::inputs![none], &options).map(drop)
    };
    if let Err(error) = shrunk() {
        tracing::debug!("cannot return unused memory to the system: {error}");
    }
}

/// Returns nine tenths of the memory that this process may use, in bytes: the smallest of the limits of its cgroup (v2
/// and v1) and the machine's memory.
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
    // Without any limit the arena is not bounded.
    limits.into_iter().flatten().min().map_or(usize::MAX, |bytes| bytes / 10 * 9)
}
