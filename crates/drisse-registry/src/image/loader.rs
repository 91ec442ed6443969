//! The dynamic loader's cache (`/etc/ld.so.cache`): which file `ld.so` opens for a library's name.
//!
//! Format: `struct cache_file_new` in glibc's `elf/cache.c`, since glibc 2.2.

use std::collections::HashMap;

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEAD: usize = 48;
const ENTRY: usize = 24;

/// An entry's flags for libraries of glibc 2 on each architecture.
const X86_64: u32 = 0x0303;
const AARCH64: u32 = 0x0a03;

/// Parses the loader's cache. Returns paths by library name for one architecture (`machine`: `e_machine` of ELF),
/// without libraries that only some processors can run. Empty if `bytes` is not such a cache.
pub fn loader_cache(bytes: &[u8], machine: u16) -> HashMap<String, String> {
    let kind = if machine == 183 { AARCH64 } else { X86_64 };
    // A cache in the older format may come first.
    let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC);
    let Some(cache) = start.and_then(|start| bytes.get(start..)) else { return HashMap::new() };
    let count = number(cache, MAGIC.len()).unwrap_or(0) as usize;
    let entries = cache.get(HEAD..).unwrap_or_default().chunks_exact(ENTRY).take(count);
    let mut paths = HashMap::new();
    for entry in entries {
        let of_every_processor = entry[16..24].iter().all(|&byte| byte == 0);
        let path = || Some((string(cache, number(entry, 4)?)?, string(cache, number(entry, 8)?)?));
        if number(entry, 0) == Some(kind)
            && of_every_processor
            && let Some((name, path)) = path()
        {
            // The loader uses the first entry of a name.
            paths.entry(name).or_insert(path);
        }
    }
    paths
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn string(cache: &[u8], at: u32) -> Option<String> {
    let rest = cache.get(at as usize..)?;
    let end = rest.iter().take(4096).position(|&byte| byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_library_that_every_processor_of_this_kind_runs_counts() {
        let cache = include_bytes!("../../../../fuzz/seeds/elf/cache");
        let found = loader_cache(cache, 62);
        let path = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(path("libc.so.6"), Some("/lib/x86_64-linux-gnu/libc.so.6"));
        assert_eq!(path("libm.so.6"), Some("/lib/x86_64-linux-gnu/libm.so.6"));
        assert!(found.len() == 2 && loader_cache(cache, 183).is_empty());
        assert!(loader_cache(&cache[..100], 62).is_empty() && loader_cache(b"", 62).is_empty());
    }
}
