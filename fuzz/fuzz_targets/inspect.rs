//! Model files: no panic, bounded memory, whatever their bytes; a signature can be written down.
#![no_main]

mod scratch;

use drisse_registry::{signature_document, signature_of};
use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| scratch::scratch("model"));

fuzz_target!(|content: &[u8]| {
    // The inspector reads files.
    std::fs::write(&*FILE, content).expect("memory to write to");
    if let Ok(found) = drisse_registry::inspect(&FILE) {
        let written = signature_document(&found.signature);
        let read = signature_of(&written).expect("it was written");
        assert_eq!(signature_document(&read), written);
    }
});
