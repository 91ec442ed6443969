//! Programs, shared libraries and the loader's cache: parsing any bytes never panics and uses bounded memory.

use drisse_registry::{Elf, loader_cache};

pub fn fuzz(content: &[u8]) {
    if let Ok(Some(found)) = Elf::parse(content) {
        let names = found.needed.iter().chain(&found.search).chain(&found.interpreter);
        assert!(names.map(String::len).all(|length| length <= 4096));
    }
    for machine in [62, 183] {
        assert!(loader_cache(content, machine).len() <= content.len() / 24);
    }
}
