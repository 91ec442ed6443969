//! Model files: inspecting any bytes never panics and uses bounded memory; a found signature survives being written and
//! read again.

use crate::scratch;
use drisse_registry::{signature_document, signature_of};
use std::path::PathBuf;
use std::sync::LazyLock;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| scratch::scratch("model"));

pub fn fuzz(content: &[u8]) {
    // The inspector reads files.
    std::fs::write(&*FILE, content).expect("/dev/shm is writable");
    if let Ok(found) = drisse_registry::inspect(&FILE) {
        let written = signature_document(&found.signature);
        let read = signature_of(&written).expect("a written signature can be read");
        assert_eq!(signature_document(&read), written);
    }
}
