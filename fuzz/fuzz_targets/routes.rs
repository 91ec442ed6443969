//! Route documents as the gateway accepts them: no panic, and the active document equals the one that was put.

use crate::scratch;
use drisse_wire::routes::RouteDocument;
use std::sync::LazyLock;

static TABLE: LazyLock<drisse_gateway::Table> = LazyLock::new(|| {
    drisse_gateway::Table::open(&scratch::scratch("routes"), 1).expect("/dev/shm is writable")
});

pub fn fuzz(content: &[u8]) {
    if let Ok(document) = serde_json::from_slice::<RouteDocument>(content) {
        // The gateway stores documents as JSON files.
        let text = serde_json::to_vec(&document).expect("a parsed document can be written");
        let read = serde_json::from_slice::<RouteDocument>(&text).expect("a written document can be read");
        assert_eq!(read, document);
        let name = document.service.clone();
        if TABLE.put(document.clone()).is_ok() {
            assert_eq!(TABLE.get(&name), Some(document));
            TABLE.remove(&name).expect("a document that was put can be removed");
        }
        assert!(TABLE.generations().is_empty());
    }
}
