//! Packages: manifests, the folders made from them, and the signatures beside them. No panic, no file
//! outside of a package's folder, whatever their bytes.
#![no_main]

mod scratch;

use drisse_registry::{Store, signature_document, signature_of};
use libfuzzer_sys::fuzz_target;
use std::path::{Component, Path};
use std::sync::LazyLock;

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let store = Store::open(&scratch::scratch("store")).expect("memory to write to");
    // What manifests in `seeds` name: a view of it can be made.
    store.put_bytes(b"model").expect("memory to write to");
    store
});

/// Which model the views are of.
const MODEL: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fuzz_target!(|content: &[u8]| {
    // What is no JSON is no manifest either: writing it down would only take time.
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(content) else { return };
    if let Some(signature) = signature_of(&document) {
        assert_eq!(signature_of(&signature_document(&signature)), Some(signature));
    }
    let blob = STORE.put_bytes(content).expect("memory to write to");
    if let Ok(manifest) = STORE.manifest(&blob.digest) {
        let _ = (manifest.blobs().count(), manifest.sample());
        let plain = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        assert!(manifest.model_file().is_none_or(|path| plain(&path)));
        if let Ok(view) = STORE.view_of(MODEL, &manifest) {
            if let Some(path) = manifest.model_file() {
                assert!(view.join(path).is_file());
            }
            STORE.forget_view(MODEL);
        }
    }
    let path = STORE.path(&blob.digest).expect("a digest");
    std::fs::remove_file(path).expect("it was written");
});
