//! Manifests and signatures of packages, and the control API's bodies: no panic, whatever their bytes.
#![no_main]

use drisse_registry::{Store, signature_document, signature_of};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let folder = std::path::PathBuf::from(format!("/dev/shm/drisse-fuzz-store-{}", std::process::id()));
    Store::open(&folder).expect("memory to write to")
});

fuzz_target!(|content: &[u8]| {
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(content) else { return };
    if let Some(signature) = signature_of(&document) {
        assert_eq!(signature_of(&signature_document(&signature)), Some(signature));
    }
    let blob = STORE.put_bytes(content).expect("memory to write to");
    if let Ok(manifest) = STORE.manifest(&blob.digest) {
        if let Some(path) = manifest.model_file() {
            assert!(path.is_relative() && !path.to_string_lossy().contains(".."));
        }
    }
    let path = STORE.path(&blob.digest).expect("a digest");
    std::fs::remove_file(path).expect("it was written");
    let _ = serde_json::from_value::<drisse_wire::control::DeployRequest>(document.clone());
    let _ = serde_json::from_value::<drisse_wire::control::RegisterRequest>(document);
});
