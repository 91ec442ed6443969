//! Packages: manifests, the folders made from them, and their signatures. Any bytes: no panic, and no file outside a
//! package's folder.

use crate::scratch;
use drisse_registry::{Store, signature_document, signature_of};
use std::path::{Component, Path};
use std::sync::LazyLock;

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let store = Store::open(&scratch::scratch("store")).expect("/dev/shm is writable");
    // The blob that manifests in `seeds` refer to, so that views can be made of them.
    store.put_bytes(b"model").expect("/dev/shm is writable");
    store
});

/// The digest of the model whose views are made.
const MODEL: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

pub fn fuzz(content: &[u8]) {
    // Skips bytes that are not JSON, which cannot be a manifest: storing them would only take time.
    let Ok(document) = serde_json::from_slice::<serde_json::Value>(content) else { return };
    if let Some(signature) = signature_of(&document) {
        assert_eq!(signature_of(&signature_document(&signature)), Some(signature));
    }
    let blob = STORE.put_bytes(content).expect("/dev/shm is writable");
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
    std::fs::remove_file(path).expect("the blob exists");
}
